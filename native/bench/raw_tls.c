/* SPDX-License-Identifier: Apache-2.0
 * raw_tcp.c over TLS 1.3, with the cipher that harp-link asks for first. PORT OUT BACK ROUNDS, and
 * where it serves CERT KEY; nobody is verified, and the handshake is not timed. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void move(SSL *ssl, unsigned long bytes, int out)
{
    static char buffer[1 << 20];
    for (int n; bytes > 0; bytes -= (unsigned long)n) {
        int part = bytes < sizeof buffer ? (int)bytes : (int)sizeof buffer;
        n = out ? SSL_write(ssl, buffer, part) : SSL_read(ssl, buffer, part);
        if (n <= 0)
            exit(1);
    }
}

int main(int argc, char **argv)
{
    unsigned long a[5] = {0};
    for (int i = 1; i < 5 && i < argc; i++)
        a[i] = strtoul(argv[i], NULL, 10);
    struct sockaddr_in at = {AF_INET, htons((unsigned short)a[1]), {htonl(INADDR_LOOPBACK)}, {0}};
    struct sockaddr *any = (struct sockaddr *)&at;
    int fd = socket(AF_INET, SOCK_STREAM, 0), client = a[1] != 0;
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    if (SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") != 1 ||
        (!client && (SSL_CTX_use_certificate_chain_file(ctx, argv[5]) != 1 ||
                     SSL_CTX_use_PrivateKey_file(ctx, argv[6], SSL_FILETYPE_PEM) != 1)) ||
        (client ? connect(fd, any, sizeof at) : bind(fd, any, sizeof at) | listen(fd, 1)))
        return 1;
    getsockname(fd, any, &(socklen_t){sizeof at});
    if (!client && printf("%d\n", ntohs(at.sin_port)) > 0 && fflush(stdout) == 0)
        fd = accept(fd, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    SSL *ssl = SSL_new(ctx);
    if (SSL_set_fd(ssl, fd) != 1 || (client ? SSL_connect(ssl) : SSL_accept(ssl)) != 1)
        return 1;
    for (struct timespec from, to; a[4]-- > 0;) {
        clock_gettime(CLOCK_MONOTONIC, &from);
        move(ssl, a[2], client);
        move(ssl, a[3], !client);
        clock_gettime(CLOCK_MONOTONIC, &to);
        if (client)
            printf("%ld\n", (to.tv_sec - from.tv_sec) * 1000000000l + to.tv_nsec - from.tv_nsec);
    }
}
