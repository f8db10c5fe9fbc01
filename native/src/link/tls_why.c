/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenSSL's codes as sentences.
 */
#include "src/link/tls_why.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/sslerr.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>

/* What we found wrong with the peer's certificate. */
static void certificate(const struct harp_tls_failure *f, char *why)
{
    const char *whose = f->server ? "the client's certificate" : "the server's certificate";
    switch (f->verify) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        snprintf(why, HARP_WHY_BYTES,
                 "%s has expired; remedy: renew it (harp remote init), or set this host's clock",
                 whose);
        return;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        snprintf(why, HARP_WHY_BYTES, "%s is not valid yet; remedy: set this host's clock", whose);
        return;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        snprintf(why, HARP_WHY_BYTES,
                 "%s is not for %.200s; remedy: use a name that is in it, or make one with this "
                 "name (harp remote init)",
                 whose, f->name);
        return;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        snprintf(why, HARP_WHY_BYTES,
                 "%s is not signed by %.200s; remedy: give both sides the same CA", whose, f->ca);
        return;
    default:
        snprintf(why, HARP_WHY_BYTES, "%s is refused: %s", whose,
                 X509_verify_cert_error_string(f->verify));
    }
}

/* What the peer found wrong with us, or with how we speak. */
static const char *reason(int code, bool server)
{
    switch (code) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return server ? "the client has shown no certificate; remedy: give it one of this CA"
                      : "the server asks for a certificate; remedy: give one of its CA (mTLS)";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return server ? "the client does not trust the CA of our certificate"
                      : "the server does not trust the CA of our certificate; remedy: give one of "
                        "its own CA";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return "the other side says that our certificate has expired; remedy: renew it (harp "
               "remote init)";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        return "the other side refuses our certificate; remedy: look at the name in it, and at the "
               "other side's log";
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_WRONG_SSL_VERSION:
        return "the other side does not speak TLS 1.3, and nothing older is taken";
    case SSL_R_NO_APPLICATION_PROTOCOL:
    case SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL:
        return "the two sides have no protocol in common (ALPN h2)";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
        return "the other side does not speak TLS; remedy: is this the right port, and was it "
               "started with a certificate?";
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return "the other side closed the connection";
    default:
        return NULL;
    }
}

void harp_tls_explain(const struct harp_tls_failure *f, char why[HARP_WHY_BYTES])
{
    int code = ERR_GET_REASON(f->error);
    if (f->verify != X509_V_OK && code == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        certificate(f, why);
        return;
    }
    const char *known = reason(code, f->server);
    const char *text = ERR_reason_error_string(f->error);
    if (known != NULL)
        snprintf(why, HARP_WHY_BYTES, "%s", known);
    else
        snprintf(why, HARP_WHY_BYTES, "TLS failed: %s",
                 text != NULL ? text : "the connection was closed");
}
