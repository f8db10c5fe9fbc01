/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenCL C: vectors, swizzles, conversions, address spaces, local memory.
 */
#ifdef __NVPTX__
#define THREAD() __nvvm_read_ptx_sreg_tid_x()
#define THREADS() __nvvm_read_ptx_sreg_ntid_x()
#define BLOCK() __nvvm_read_ptx_sreg_ctaid_x()
#define SYNC() __nvvm_bar_sync(0)
#define LOCAL local
#else
unsigned host_thread(void), host_block(void), host_block_threads(void);
void host_sync(void);
#define THREAD() host_thread()
#define THREADS() host_block_threads()
#define BLOCK() host_block()
#define SYNC() host_sync()
#define LOCAL static global
#endif
typedef unsigned int u32;
typedef __typeof__(sizeof(0)) u64;
typedef float float2v __attribute__((ext_vector_type(2)));
typedef float float4v __attribute__((ext_vector_type(4)));
typedef int int4v __attribute__((ext_vector_type(4)));
typedef int int8v __attribute__((ext_vector_type(8)));
typedef short short4v __attribute__((ext_vector_type(4)));
typedef unsigned char uchar16v __attribute__((ext_vector_type(16)));
typedef unsigned char uchar4v __attribute__((ext_vector_type(4)));
#define HERE() (BLOCK() * THREADS() + THREAD())
#define ARGS global const unsigned char *in, global unsigned char *out, global u32 *cells
#define IN(T, k) (((global const T *)(in + HERE() * 64))[k])
#define OUT(T, slot) (*(global T *)(out + HERE() * 128 + (slot) * 8))

constant int weights[8] = {1, -2, 3, -4, 5, -6, 7, -8};

kernel void cl_vectors(ARGS)
{
    int8v a = IN(int8v, 0), b = IN(int8v, 1);
    int8v c = a * b - a.s76543210;
    OUT(int8v, 0) = c;
    OUT(int4v, 4) = a.even + b.odd * c.lo;
    OUT(uchar16v, 6) = IN(uchar16v, 0) ^ IN(uchar16v, 3);
    uchar4v bytes = __builtin_convertvector(c.hi, uchar4v);
    OUT(uchar4v, 8) = bytes * (uchar4v)(3, 5, 7, 9);
    OUT(short4v, 9) = __builtin_convertvector(a.lo, short4v) >> (short)3;
    OUT(int4v, 10) = a.lo > b.lo ? a.hi : b.hi;
    OUT(int4v, 12) = -(a.lo == b.lo) + !b.hi;
}

kernel void cl_floats(ARGS)
{
    int4v i = IN(int4v, 0);
    float4v v = __builtin_convertvector(i, float4v) * 0.5f;
    float4v w = (float4v)(v.xy, 1.5f, -2.0f);
    OUT(float4v, 0) = v * w + (float4v)(0.25f);
    OUT(float2v, 2) = v.zw / (w.yx * w.yx + 1.0f);
    w.xz = v.yw;
    OUT(float4v, 4) = w;
    float sum = 0;
    for (int k = 0; k < 8; k++)
        sum += v[k & 3] * weights[k];
    OUT(float, 6) = sum;
}

kernel void cl_local(ARGS)
{
    LOCAL int part[96];
    LOCAL float4v wide[96];
    u32 t = THREAD();
    part[t] = IN(int, 0);
    wide[t] = __builtin_convertvector(IN(int4v, 1), float4v);
    SYNC();
    OUT(int, 0) = part[95 - t] * weights[t & 7];
    OUT(float4v, 8) = wide[t ^ 1].wzyx;
    private int mine[5];
    for (int k = 0; k < 5; k++)
        mine[k] = part[(t + k) % 96];
    OUT(int, 3) = mine[IN(u32, 1) % 5];
    generic int *any = IN(u32, 2) & 1 ? (generic int *)&part[t] : (generic int *)&mine[0];
    OUT(int, 4) = *any + 1;
}
