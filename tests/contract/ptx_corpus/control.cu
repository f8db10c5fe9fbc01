/* SPDX-License-Identifier: Apache-2.0 */
#include "corpus.h"

KERNEL void jump_table(ARGS)
{
    u32 v = get<u32>(in, 0), sum = 0;
    for (u32 i = 0; i < 12; i++) {
        switch (v % 11) {
        case 0: sum += v; break;
        case 1: sum ^= v << 3; break;
        case 2: sum = sum * 5 + 1;
        case 3: sum -= i; break;
        case 4: sum |= 1u << (i & 31); break;
        case 5: sum &= ~v; break;
        case 6: sum = ~sum; break;
        case 7: sum += v / (i + 1); break;
        case 8: sum = sum << 7 | sum >> 25; break;
        case 9: continue;
        default: sum += 1000;
        }
        v = v * 1664525u + 1013904223u;
    }
    put(out, 0, sum), put(out, 1, v);
}

KERNEL void loops(ARGS)
{
    u32 v = get<u32>(in, 0) & 0xffff, steps = 0, found = 0;
    for (u32 n = v | 1; n != 1 && steps < 300; steps++)
        n = n & 1 ? 3 * n + 1 : n >> 1;
    for (u32 i = 2; i < 40; i++) {
        for (u32 k = 2; k * k <= i; k++)
            if (i % k == 0)
                goto next;
        if (v % i == 0)
            found |= 1u << (i & 31);
    next:;
    }
    u32 a = get<u32>(in, 1) | 1, b = get<u32>(in, 2) | 1;
    do {
        u32 t = a % b;
        a = b;
        b = t;
    } while (b);
    put(out, 0, steps), put(out, 1, found), put(out, 2, a);
}

DEVICE NOINLINE static u32 ackermann(u32 m, u32 n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
DEVICE NOINLINE static u64 fibonacci(u32 n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
DEVICE NOINLINE static u32 odd(u32 n);
DEVICE NOINLINE static u32 even(u32 n) { return n == 0 ? 1 : odd(n - 1); }
DEVICE NOINLINE static u32 odd(u32 n) { return n == 0 ? 0 : even(n - 1); }
KERNEL void recursion(ARGS)
{
    put(out, 0, fibonacci(get<u32>(in, 0) % 12));
    put(out, 1, ackermann(get<u32>(in, 1) % 3, get<u32>(in, 2) % 4));
    put(out, 2, even(get<u32>(in, 3) % 20));
}

typedef u32 (*unary)(u32);
DEVICE NOINLINE static u32 twice(u32 v) { return v * 2; }
DEVICE NOINLINE static u32 square(u32 v) { return v * v; }
DEVICE NOINLINE static u32 flip(u32 v) { return ~v; }
DEVICE NOINLINE static u32 apply(unary f, u32 v, u32 n)
{
    while (n--)
        v = f(v) + 1;
    return v;
}
KERNEL void function_pointers(ARGS)
{
    unary table[4] = {twice, square, flip, twice};
    u32 v = get<u32>(in, 0);
    for (int i = 1; i < 5; i++)
        v = apply(table[get<u32>(in, i) & 3], v, i);
    put(out, 0, v);
}

struct shape {
    u32 a;
    DEVICE explicit shape(u32 v) : a(v) {}
    DEVICE virtual u32 area(u32 k) const { return a + k; }
};
struct box : shape {
    u32 b;
    DEVICE box(u32 v, u32 w) : shape(v), b(w) {}
    DEVICE u32 area(u32 k) const override { return a * b + k; }
};
KERNEL void virtual_calls(ARGS)
{
    shape plain(get<u32>(in, 0));
    box second(get<u32>(in, 1), get<u32>(in, 2));
    shape *which[2] = {&plain, &second};
    u32 sum = 0;
    for (int i = 0; i < 6; i++)
        sum = sum * 3 + which[get<u32>(in, 3 + i) & 1]->area(i);
    put(out, 0, sum);
}

struct small { u8 a; u16 b; };
struct pair { u64 a; float b; u8 c; };
struct large { u32 v[9]; pair p; };
DEVICE NOINLINE static small make_small(u32 v) { return {(u8)v, (u16)(v >> 8)}; }
DEVICE NOINLINE static pair make_pair(small s, u64 w) { return {w + s.a, (float)s.b, (u8)(s.a ^ 7)}; }
DEVICE NOINLINE static large make_large(pair p, const u32 *v)
{
    large l;
    for (int i = 0; i < 9; i++)
        l.v[i] = v[i] * (i + 1);
    l.p = p;
    return l;
}
DEVICE NOINLINE static u64 fold(large l, u128 wide, i8 narrow)
{
    u64 sum = (u64)(wide >> 60) + (u64)(i64)narrow + l.p.a + (u64)l.p.b + l.p.c;
    for (int i = 0; i < 9; i++)
        sum = sum * 31 + l.v[i];
    return sum;
}
KERNEL void structs(ARGS)
{
    u32 v[9];
    for (int i = 0; i < 9; i++)
        v[i] = get<u32>(in, i);
    pair p = make_pair(make_small(v[0]), get<u64>(in, 3));
    large l = make_large(p, v);
    put(out, 0, fold(l, (u128)l.p.a * l.v[8], (i8)v[2]));
    large copy[2] = {l, l};
    copy[v[3] & 1].v[v[4] % 9] = 5;
    put(out, 1, fold(copy[1], copy[0].v[3], -1));
}

CONST u16 primes[12] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
CONST struct { i32 a; double b; const char *name; } rows[3] = {{-1, 0.5, "one"}, {7, -2.25, "second"}, {9, 1e10, ""}};
#ifdef __CUDA__
DEVICE u32 scale[2] = {3, 1000};
#else
static u32 scale[2] = {3, 1000};
#endif
KERNEL void tables(ARGS)
{
    u32 v = get<u32>(in, 0), length = 0;
    put<u32>(out, 0, primes[v % 12] * scale[v & 1]);
    put<double>(out, 1, rows[v % 3].b * rows[v % 3].a);
    for (const char *at = rows[v % 3].name; *at; at++)
        length = length * 131 + (u8)*at;
    put<u32>(out, 2, length);
}

KERNEL void local_arrays(ARGS)
{
    u32 v[16], seen[40] = {0};
    u8 bytes[64];
    for (int i = 0; i < 16; i++)
        v[i] = get<u32>(in, i);
    for (int i = 1; i < 16; i++)
        for (int k = i; k > 0 && v[k - 1] > v[k]; k--) {
            u32 t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    __builtin_memcpy(bytes, v, 64);
    __builtin_memmove(bytes + 3, bytes, 50);
    __builtin_memset(bytes + 20, (int)v[0], 9);
    for (int i = 0; i < 64; i++)
        seen[bytes[i] % 40] += i;
    u32 sum = 0;
    for (int i = 0; i < 40; i++)
        sum = sum * 33 + seen[i];
    put(out, 0, sum), put(out, 1, v[3]), put(out, 2, v[12]);
}

KERNEL void volatiles(ARGS)
{
    volatile u32 *mine = (volatile u32 *)(out + HERE() * 128);
    volatile u16 half = 3;
    mine[0] = get<u32>(in, 0);
    mine[1] = mine[0] + half;
    half = (u16)mine[1];
    mine[2] = half;
    __builtin_nontemporal_store(get<u32>(in, 1), (u32 *)(out + HERE() * 128 + 12));
    mine[4] = __builtin_nontemporal_load((u32 *)(in + HERE() * 64 + 8));
}

KERNEL void unaligned(ARGS)
{
    struct __attribute__((packed)) odd_one { u8 a; u32 b; u64 c; u16 d; } o;
    __builtin_memcpy(&o, in + HERE() * 64 + 1, sizeof(o));
    o.b += o.a, o.c ^= o.d;
    __builtin_memcpy(out + HERE() * 128 + 5, &o, sizeof(o));
    put<u32>(out, 8, o.b);
}

KERNEL void divergent_exits(ARGS)
{
    u32 v = get<u32>(in, 0);
    put(out, 0, v);
    if (v & 1)
        return;
    put(out, 1, v / 3);
    for (u32 i = 0;; i++) {
        if (i * i > (v & 0xff))
            return;
        put(out, 2, i);
    }
}
