/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenSSL, and its errors as sentences.
 */
#include "src/link/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "src/link/tls_out.h"
#include "src/link/tls_why.h"

/* What one record holds. */
#define RECORD_BYTES HARP_IO_ROOM

struct harp_tls {
    SSL_CTX *ctx;
    bool server;
    char ca[256];
};

struct harp_tls_stream {
    SSL *ssl;
    struct harp_tls *tls;
    char name[256], why[HARP_WHY_BYTES];
    uint8_t record[RECORD_BYTES];
    struct tls_out out;
};

/* No terminal is asked for the password of a key. */
static int no_password(char *to, int size, int writing, void *ctx)
{
    return -1;
}

static int only_h2(SSL *ssl, const unsigned char **out, unsigned char *out_size,
                   const unsigned char *offered, unsigned offered_size, void *ctx)
{
    static const unsigned char h2[] = "\x02h2";
    unsigned char *chosen = NULL;
    if (SSL_select_next_proto(&chosen, out_size, h2, sizeof h2 - 1, offered, offered_size) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int file_error(const char *what, const char *file, char *why)
{
    char reason[256] = "not PEM";
    unsigned long err = ERR_peek_error();
    if (ERR_SYSTEM_ERROR(err))
        snprintf(reason, sizeof reason, "%s", strerror(ERR_GET_REASON(err)));
    else if (err != 0 && ERR_reason_error_string(err) != NULL)
        snprintf(reason, sizeof reason, "%s", ERR_reason_error_string(err));
    snprintf(why, HARP_WHY_BYTES, "%s %.200s cannot be used: %s", what, file, reason);
    ERR_clear_error();
    return -EINVAL;
}

/* Own certificate and key. */
static int load_own(SSL_CTX *ctx, const struct harp_tls_files *files, char *why)
{
    if (files->key == NULL) {
        snprintf(why, HARP_WHY_BYTES, "certificate %.200s is given, and no key for it",
                 files->certificate);
        return -EINVAL;
    }
    if (SSL_CTX_use_certificate_chain_file(ctx, files->certificate) != 1)
        return file_error("certificate", files->certificate, why);
    if (SSL_CTX_use_PrivateKey_file(ctx, files->key, SSL_FILETYPE_PEM) != 1)
        return file_error("key", files->key, why);
    return 0;
}

/* Whom to trust. */
static int load_ca(struct harp_tls *tls, const struct harp_tls_files *files, char *why)
{
    if (files->ca == NULL) {
        snprintf(tls->ca, sizeof tls->ca, "the CAs of this system");
        return tls->server || SSL_CTX_set_default_verify_paths(tls->ctx) == 1
                   ? 0
                   : file_error("the system's", "CA certificates", why);
    }
    snprintf(tls->ca, sizeof tls->ca, "%s", files->ca);
    if (SSL_CTX_load_verify_file(tls->ctx, files->ca) != 1)
        return file_error("CA file", files->ca, why);
    STACK_OF(X509_NAME) *names = tls->server ? SSL_load_client_CA_file(files->ca) : NULL;
    if (names != NULL)
        SSL_CTX_set_client_CA_list(tls->ctx, names);
    return 0;
}

static int set_up(struct harp_tls *tls, const struct harp_tls_files *files, char *why)
{
    SSL_CTX *ctx = tls->ctx;
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                      "TLS_CHACHA20_POLY1305_SHA256") != 1 ||
        SSL_CTX_set_num_tickets(ctx, 0) != 1 || SSL_CTX_set_max_early_data(ctx, 0) != 1) {
        snprintf(why, HARP_WHY_BYTES, "this OpenSSL has no TLS 1.3");
        return -EINVAL;
    }
    /* Header and body of a record with one syscall. */
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (tls->server)
        SSL_CTX_set_alpn_select_cb(ctx, only_h2, NULL);
    else if (SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x02h2", 3) != 0)
        return -ENOMEM;
    int verify = !tls->server        ? SSL_VERIFY_PEER
                 : files->ca != NULL ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                                     : SSL_VERIFY_NONE;
    SSL_CTX_set_verify(ctx, verify, NULL);
    if (tls->server && files->certificate == NULL) {
        snprintf(why, HARP_WHY_BYTES, "a server needs a certificate and its key");
        return -EINVAL;
    }
    int err = files->certificate != NULL ? load_own(ctx, files, why) : 0;
    return err != 0 ? err : load_ca(tls, files, why);
}

int harp_tls_open(struct harp_tls **out, bool server, const struct harp_tls_files *files, char *why)
{
    struct harp_tls *tls = calloc(1, sizeof *tls);
    ERR_clear_error();
    snprintf(why, HARP_WHY_BYTES, "no memory");
    if (tls == NULL)
        return -ENOMEM;
    tls->server = server;
    tls->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    int err = tls->ctx != NULL ? set_up(tls, files, why) : -ENOMEM;
    if (err != 0) {
        harp_tls_close(tls);
        return err;
    }
    *out = tls;
    return 0;
}

void harp_tls_close(struct harp_tls *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->ctx);
    free(tls);
}

/* --- one connection --- */

/* A name of DNS is also told to the server (SNI); an address is not. */
static bool expect(SSL *ssl, const char *name)
{
    uint8_t address[16];
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

/* It reads from the socket, and its records are gathered. */
static bool attach(struct harp_tls_stream *s, int fd)
{
    s->out.fd = fd;
    BIO *in = BIO_new_socket(fd, BIO_NOCLOSE), *out = tls_out_bio(&s->out);
    if (in == NULL || out == NULL) {
        BIO_free(in);
        BIO_free(out);
        return false;
    }
    SSL_set_bio(s->ssl, in, out);
    return true;
}

int harp_tls_start(struct harp_tls_stream **out, struct harp_tls *tls, int fd, const char *name)
{
    struct harp_tls_stream *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->tls = tls;
    s->ssl = SSL_new(tls->ctx);
    snprintf(s->name, sizeof s->name, "%s", name != NULL ? name : "");
    if (s->ssl == NULL || !attach(s, fd) || (!tls->server && !expect(s->ssl, s->name))) {
        harp_tls_end(s);
        return -ENOMEM;
    }
    if (tls->server)
        SSL_set_accept_state(s->ssl);
    else
        SSL_set_connect_state(s->ssl);
    *out = s;
    return 0;
}

void harp_tls_end(struct harp_tls_stream *s)
{
    if (s == NULL)
        return;
    ERR_clear_error();
    /* Tell the peer that nothing was cut off; it does not matter if it cannot be told. */
    if (s->ssl != NULL && s->why[0] == '\0' && SSL_is_init_finished(s->ssl))
        (void)SSL_shutdown(s->ssl);
    SSL_free(s->ssl);
    ERR_clear_error();
    free(s);
}

const char *harp_tls_why(const struct harp_tls_stream *s)
{
    return s->why[0] != '\0' ? s->why : NULL;
}

static int broken(struct harp_tls_stream *s)
{
    const struct harp_tls_failure failure = {
        .error = ERR_peek_last_error(),
        .verify = SSL_get_verify_result(s->ssl),
        .server = s->tls->server,
        .name = s->name,
        .ca = s->tls->ca,
    };
    if (s->why[0] == '\0')
        harp_tls_explain(&failure, s->why);
    ERR_clear_error();
    return -EPROTO;
}

int harp_tls_shake(struct harp_tls_stream *s, bool *writing)
{
    const unsigned char *protocol;
    unsigned size;
    ERR_clear_error();
    int done = SSL_do_handshake(s->ssl);
    if (done != 1) {
        int err = SSL_get_error(s->ssl, done);
        *writing = err == SSL_ERROR_WANT_WRITE;
        return err == SSL_ERROR_WANT_READ || *writing ? -EAGAIN : broken(s);
    }
    SSL_get0_alpn_selected(s->ssl, &protocol, &size);
    if (size == 2 && memcmp(protocol, "h2", 2) == 0)
        return 0;
    snprintf(s->why, sizeof s->why,
             "the other side speaks TLS but no HTTP/2 (ALPN h2); is it a HARP worker?");
    return -EPROTO;
}

static ssize_t outcome(struct harp_tls_stream *s, int done)
{
    switch (SSL_get_error(s->ssl, done)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        if (ERR_peek_error() == 0)
            return errno == 0 ? 0 : -errno;
        return broken(s);
    default:
        return broken(s);
    }
}

static ssize_t tls_recv(void *ctx, void *data, size_t size)
{
    struct harp_tls_stream *s = ctx;
    size_t have = 0;
    ERR_clear_error();
    /* A record at a time is what OpenSSL gives; HTTP/2 is fed with more at once. */
    while (size - have >= RECORD_BYTES) {
        errno = 0;
        int n = SSL_read(s->ssl, (uint8_t *)data + have, (int)RECORD_BYTES);
        if (n <= 0) {
            ssize_t result = outcome(s, n); /* keeps why, if it is broken */
            if (have == 0 || result == -EAGAIN)
                return have != 0 ? (ssize_t)have : result;
            /* An end that was said, where the peer keeps its socket: the loop comes again. */
            (void)shutdown(SSL_get_fd(s->ssl), SHUT_RD);
            return (ssize_t)have;
        }
        have += (size_t)n;
    }
    return (ssize_t)have;
}

/* A record of as many pieces as it holds; one large piece is taken from where it lies. After
 * -EAGAIN the same pieces come again, so the same record does, as OpenSSL wants it. */
static ssize_t tls_send(void *ctx, const struct iovec *pieces, int count)
{
    struct harp_tls_stream *s = ctx;
    const void *from = pieces[0].iov_base;
    size_t size = pieces[0].iov_len < RECORD_BYTES ? pieces[0].iov_len : RECORD_BYTES;
    if (size < RECORD_BYTES && count > 1) {
        memcpy(s->record, from, size);
        for (int i = 1; i < count && size < RECORD_BYTES; i++) {
            size_t room = RECORD_BYTES - size;
            size_t n = pieces[i].iov_len < room ? pieces[i].iov_len : room;
            memcpy(s->record + size, pieces[i].iov_base, n);
            size += n;
        }
        from = s->record;
    }
    ERR_clear_error();
    errno = 0;
    int n = SSL_write(s->ssl, from, (int)size);
    if (n > 0)
        return n;
    ssize_t result = outcome(s, n);
    return result == 0 ? -EPIPE : result;
}

static int tls_flush(void *ctx)
{
    return tls_out_flush(&((struct harp_tls_stream *)ctx)->out);
}

struct harp_io harp_tls_io(struct harp_tls_stream *s)
{
    return (struct harp_io){
        .ctx = s, .drains = true, .recv = tls_recv, .send = tls_send, .flush = tls_flush};
}
