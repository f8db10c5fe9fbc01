/* SPDX-License-Identifier: Apache-2.0
 *
 * What is said over the socket of `harp-ptxc serve`, by processes of one machine. SOCK_SEQPACKET:
 * the program sends one message, a ptxc_request and the kernel's name, and with it one descriptor,
 * a memory file of the PTX text that is sealed against every change. The service answers with one,
 * a ptxc_reply and a line of explanation, and, if it has compiled, with the object's bytes in
 * pieces.
 *
 * The text's memory is the program's and so is that of the object: nothing that a program asks for
 * stays in the service. No descriptor of the service leaves it: who is root in a container could
 * open it again for writing.
 */
#ifndef HARP_PTXC_SERVICE_H
#define HARP_PTXC_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PTXC_MAGIC = 0x43545048, /* "HPTC" */
    PTXC_VERSION = 1,
    PTXC_KERNEL_MAX = 16 << 10,
    PTXC_TEXT_MAX = 64 << 20,
    PTXC_OBJECT_MAX = 64 << 20,
    PTXC_WHY_MAX = 511,
    PTXC_PIECE = 64 << 10,
    PTXC_BUSY = 8, /* a status besides harp-ptxc's exit codes: ask again */
};

struct ptxc_request {
    uint32_t magic, version;
    uint32_t abi; /* PTX_RT_ABI that the program runs */
    uint32_t sm;
    uint64_t text_bytes;
    uint32_t kernel_bytes;
    uint32_t fast; /* 0: the form that is compiled sooner will do; 1: the fast one */
};

struct ptxc_reply {
    uint32_t magic, version;
    uint32_t status; /* 0: object_bytes bytes follow in pieces of PTXC_PIECE */
    uint32_t why_bytes;
    uint64_t object_bytes;
};

_Static_assert(sizeof(struct ptxc_request) == 32, "a wire format");
_Static_assert(sizeof(struct ptxc_reply) == 24, "a wire format");

enum {
    PTXC_REQUEST_MAX = sizeof(struct ptxc_request) + PTXC_KERNEL_MAX,
    PTXC_REPLY_MAX = sizeof(struct ptxc_reply) + PTXC_WHY_MAX,
};

/* Whether a message is a request; `kernel` is ended by a NUL and has none in it. Any bytes may come
 * in. False: one line in `why`. */
bool ptxc_request_read(const void *message, size_t bytes, struct ptxc_request *out,
                       char kernel[PTXC_KERNEL_MAX + 1], char *why, size_t why_bytes);
/* The same of the answer; `said` is ended by a NUL and has no line break in it. */
bool ptxc_reply_read(const void *message, size_t bytes, struct ptxc_reply *out,
                     char said[PTXC_WHY_MAX + 1]);

/* A memory file of these bytes, sealed. -errno. */
int ptxc_sealed_file(const void *bytes, size_t count);
/* Whether nobody can change it any more and it has that many bytes. */
bool ptxc_is_sealed(int fd, uint64_t bytes);

/* One message of two parts, and a descriptor (-1: none). 0 or -errno; never a signal. */
int ptxc_send(int socket, const void *head, size_t head_bytes, const void *tail, size_t tail_bytes,
              int fd);
/* One message and at most one descriptor (-1: none); 0: the end; -EMSGSIZE: longer than `bytes`;
 * -EPROTO: more than one descriptor. Descriptors of a refused message are closed. */
ssize_t ptxc_receive(int socket, void *message, size_t bytes, int *fd);

#endif
