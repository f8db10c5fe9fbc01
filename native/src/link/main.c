/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-link: options.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/link/ends.h"
#include "src/link/upgrade.h"

static int usage(FILE *to, int code)
{
    fputs(
        "usage: harp-link near --socket PATH --to HOST:PORT --session ID [options]\n"
        "       harp-link near --socket PATH --sessions FOLDER [options]\n"
        "       harp-link far --listen HOST:PORT --session ID [options] -- WORKER [ARGUMENT...]\n"
        "       harp-link far --listen HOST:PORT --sessions FOLDER [options] -- WORKER ...\n"
        "  near: beside programs; each that connects at PATH gets a session at HOST:PORT, or one\n"
        "        of FOLDER: files ID hold the token, then lines to=HOST:PORT and name=NAME; says\n"
        "        `taken ID` and `ended ID` on stdout, and ends with its reader\n"
        "  far:  beside the worker, which is started with --socket FD for the one session; or\n"
        "        for each session of FOLDER: files ID hold the token, then lines NAME=VALUE for\n"
        "        the worker's environment; a file that is removed ends its session\n"
        "  --attended            far, with --sessions: say `began ID PID` and `ended ID` on\n"
        "                        stdout, and end all when stdin does\n"
        "  --traffic             with --sessions: say `traffic ID RECEIVED SENT RTT_US` on stdout\n"
        "                        each 2 s: bytes so far, TCP's round trip (0: not known)\n"
        "  --resume SECONDS      far: how long a session outlives its connection, where its file\n"
        "                        has no line resume_s=SECONDS (default: 0, not at all)\n"
        "  --bulk-streams N      how many connections beside a session's own host bytes of large\n"
        "                        copies are spread over, 0 to 8, if the other side takes as many\n"
        "                        (default: 2 with TLS on 4 CPUs or more, else 0)\n"
        "  --token-file FILE     the session's token; its first line\n"
        "  --cert FILE, --key FILE\n"
        "                        own certificate (PEM); far: what makes it TLS\n"
        "  --ca FILE             who signs the other side; near: what makes it TLS; far: and\n"
        "                        whom it asks for a certificate\n"
        "  --name NAME           what the other side's certificate is for (default: HOST)\n"
        "Without TLS only addresses of this machine itself are taken.\n",
        to);
    return code;
}

/* A token in the arguments would be seen by everybody. */
static int read_token(const char *path, char *token)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, token, HARP_GRPC_TOKEN_BYTES) : -1;
    int err = n < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (n > 0) {
        size_t size = (size_t)n;
        const char *end = memchr(token, '\n', size);
        size = end != NULL ? (size_t)(end - token) : size;
        if (size > 0 && size < HARP_GRPC_TOKEN_BYTES) {
            token[size] = '\0';
            return 0;
        }
    }
    fprintf(stderr, "harp-link: --token-file %s: %s\n", path,
            err != 0 ? strerror(err) : "no line of 1 to 511 bytes");
    return -EINVAL;
}

int ends_resume_ms(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds >= 0 && seconds <= ENDS_RESUME_MAX_S))
        return -1;
    return (int)(seconds * 1000);
}

struct arguments {
    const char *address, *token_file;
    int others; /* -1: not said */
    struct harp_tls_files files;
};

static int bulk_streams(const char *text, int *others)
{
    char *end;
    const long n = strtol(text, &end, 10);
    if (end == text || *end != '\0' || n < 0 || n > (long)HARP_BULK_MOST)
        return -EINVAL;
    *others = (int)n;
    return 0;
}

/* Several connections are of use where a cipher is, and CPUs for several of them. */
static unsigned default_others(bool tls)
{
    return tls && sysconf(_SC_NPROCESSORS_ONLN) >= 4 ? 2 : 0;
}

static int parse(int argc, char **argv, struct ends_options *o, struct arguments *a)
{
    static const struct option table[] = {
        {"socket", 1, NULL, 's'},       {"to", 1, NULL, 'a'},
        {"listen", 1, NULL, 'a'},       {"session", 1, NULL, 'i'},
        {"cert", 1, NULL, 'c'},         {"key", 1, NULL, 'k'},
        {"ca", 1, NULL, 'r'},           {"name", 1, NULL, 'n'},
        {"token-file", 1, NULL, 't'},   {"sessions", 1, NULL, 'f'},
        {"attended", 0, NULL, 'A'},     {"resume", 1, NULL, 'w'},
        {"bulk-streams", 1, NULL, 'b'}, {"traffic", 0, NULL, 'T'},
        {"help", 0, NULL, 'h'},         {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "+", table, NULL)) != -1;) {
        switch (c) {
        case 's':
            o->socket = optarg;
            break;
        case 'A':
            o->attended = true;
            break;
        case 'T':
            o->traffic = true;
            break;
        case 'a':
            a->address = optarg;
            break;
        case 'i':
            o->session = optarg;
            break;
        case 'f':
            o->sessions = optarg;
            break;
        case 'c':
            a->files.certificate = optarg;
            break;
        case 'k':
            a->files.key = optarg;
            break;
        case 'r':
            a->files.ca = optarg;
            break;
        case 'n':
            o->name = optarg;
            break;
        case 't':
            a->token_file = optarg;
            break;
        case 'w':
            if (ends_resume_ms(optarg) < 0)
                return -EINVAL;
            o->resume_ms = (unsigned)ends_resume_ms(optarg);
            break;
        case 'b':
            if (bulk_streams(optarg, &a->others) != 0)
                return -EINVAL;
            break;
        case 'h':
            exit(usage(stdout, 0));
        default:
            return -EINVAL;
        }
    }
    o->worker = argv + optind;
    o->worker_args = (unsigned)(argc - optind);
    return (o->session != NULL) != (o->sessions != NULL) ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    static struct ends_options o;
    struct arguments a = {.others = -1};
    char why[HARP_WHY_BYTES];
    const char *end = argc > 1 ? argv[1] : "";
    const bool far = strcmp(end, "far") == 0;
    upgrade_open(argv);
    if (strcmp(end, "--help") == 0)
        return usage(stdout, 0);
    if ((!far && strcmp(end, "near") != 0) || parse(argc - 1, argv + 1, &o, &a) != 0 ||
        far != (o.worker_args != 0) || far == (o.socket != NULL) ||
        (a.address == NULL && (far || o.sessions == NULL)) ||
        (o.sessions != NULL && a.token_file != NULL) ||
        (o.attended && (!far || o.sessions == NULL)) || (o.traffic && o.sessions == NULL))
        return usage(stderr, 2);
    harp_table_own(&o.own, HARP_VERSION);
    if (a.token_file != NULL && read_token(a.token_file, o.token) != 0)
        return 1;
    int err = a.address != NULL ? harp_address_parse(&o.address, a.address, why) : 0;
    if (err == 0 && (a.files.certificate != NULL || a.files.ca != NULL))
        err = harp_tls_open(&o.tls, far, &a.files, why);
    if (err != 0) {
        fprintf(stderr, "harp-link: %s\n", why);
        return 1;
    }
    o.others = a.others >= 0 ? (unsigned)a.others : default_others(o.tls != NULL);
    /* Whoever finds the port could use it otherwise. */
    if (far && o.sessions == NULL && a.token_file == NULL &&
        (o.tls == NULL || a.files.ca == NULL)) {
        fprintf(stderr, "harp-link: neither a token nor a CA for certificates of clients: anybody "
                        "could use the session; remedy: --token-file, or --ca\n");
        return 1;
    }
    if (upgrade_tried())
        return 0;
    if (far && o.sessions == NULL)
        upgrade_deaf();
    return !far ? near_main(&o) : o.sessions != NULL ? far_many(&o) : far_main(&o);
}
