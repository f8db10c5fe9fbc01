/* SPDX-License-Identifier: Apache-2.0
 * What this host's TCP does, with nothing of HARP's in it: harp bench remote divides by it.
 * PORT OUT BACK ROUNDS: OUT bytes there, in writes of 1 MiB, BACK bytes back; prints each round's
 * ns. PORT 0: serves that, and says where. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void move(int fd, unsigned long bytes, int out)
{
    static char buffer[1 << 20];
    for (ssize_t n; bytes > 0; bytes -= (unsigned long)n) {
        size_t part = bytes < sizeof buffer ? bytes : sizeof buffer;
        n = out ? send(fd, buffer, part, 0) : recv(fd, buffer, part, 0);
        if (n <= 0)
            exit(1);
    }
}

int main(int argc, char **argv)
{
    unsigned long a[5] = {0};
    for (int i = 1; i < argc && i < 5; i++)
        a[i] = strtoul(argv[i], NULL, 10);
    struct sockaddr_in at = {AF_INET, htons((unsigned short)a[1]), {htonl(INADDR_LOOPBACK)}, {0}};
    struct sockaddr *any = (struct sockaddr *)&at;
    int fd = socket(AF_INET, SOCK_STREAM, 0), client = a[1] != 0;
    if (client ? connect(fd, any, sizeof at) : bind(fd, any, sizeof at) | listen(fd, 1))
        return 1;
    getsockname(fd, any, &(socklen_t){sizeof at});
    if (!client && printf("%d\n", ntohs(at.sin_port)) > 0 && fflush(stdout) == 0)
        fd = accept(fd, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    for (struct timespec from, to; a[4]-- > 0;) {
        clock_gettime(CLOCK_MONOTONIC, &from);
        move(fd, a[2], client);
        move(fd, a[3], !client);
        clock_gettime(CLOCK_MONOTONIC, &to);
        if (client)
            printf("%ld\n", (to.tv_sec - from.tv_sec) * 1000000000l + to.tv_nsec - from.tv_nsec);
    }
}
