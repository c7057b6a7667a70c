/*
 * Kernels. An activation q (int8) is u = q + 128 (0..255) here, a channel's sum of products starts at its bias, and
 *
 *     u_out = clamp(round_half_even((float)sum * multiplier) + zero_point, 0, 255)
 *
 * A block of output channels is summed at a time, eight or sixteen, at up to EM_TILE positions of a row. What an output
 * row sees of an input row is a run of consecutive bytes (window columns times channels), taken in groups of four.
 */
#if defined(EDGE_MNIST_FIXED_POINT) || (defined(__arm__) && !defined(__ARM_FP)) || \
    (defined(__riscv) && !defined(__riscv_flen))
#define EM_FIXED_POINT 1 /* integers only, rounding as TensorFlow Lite's own kernels do */
#else
#define EM_FIXED_POINT 0
#endif

#if EM_FIXED_POINT || defined(EDGE_MNIST_PORTABLE) || (defined(__GNUC__) && !defined(__OPTIMIZE__))
#define EM_PORTABLE 1
#elif defined(__AVX512VNNI__)
#define EM_VNNI_512 1
#elif defined(__AVXVNNI__)
#define EM_VNNI 1
#elif defined(__AVX2__)
#define EM_AVX2 1
#elif defined(__SSE2__)
#define EM_SSE2 1
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN) && defined(__ARM_FEATURE_DOTPROD)
#define EM_DOTPROD 1
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN)
#define EM_NEON 1
#else
#define EM_PORTABLE 1
#endif

#if defined(__GNUC__)
#define EM_INLINE static inline __attribute__((always_inline, unused))
#else
#define EM_INLINE static inline
#endif

#if defined(EM_VNNI_512) || defined(EM_VNNI) || defined(EM_AVX2)
#if !defined(EM_AVX2) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-coalesce-vars") /* it would copy each sum twice for a group of taps */
#endif
#include <immintrin.h>
#elif defined(EM_SSE2)
#include <emmintrin.h>
#elif defined(EM_DOTPROD) || defined(EM_NEON)
#if defined(__GNUC__) && !defined(__clang__)
/* It would load ahead what there are no registers for, and compute after a loop where its pointers have come to. */
#pragma GCC optimize("no-schedule-insns", "no-code-hoisting", "no-tree-scev-cprop")
#endif
#include <arm_neon.h>
#elif defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN)
#include <arm_acle.h>
#define EM_DSP 1
#endif

/* How a value is kept: as u, or where products are signed as q, in 16 bits where these are multiplied. */
#if defined(EM_NEON)
typedef int16_t em_value;
typedef int16_t em_weight;
#define EM_STORED(u) ((em_value)((u) - 128))
#define EM_U(value) ((value) + 128)
#define EM_BIAS(bias, sum_of_weights) ((bias) + 128 * (sum_of_weights))
#elif defined(EM_DOTPROD)
typedef int8_t em_value;
typedef int8_t em_weight;
#define EM_STORED(u) ((em_value)((u) - 128))
#define EM_U(value) ((value) + 128)
#define EM_BIAS(bias, sum_of_weights) ((bias) + 128 * (sum_of_weights))
#else
#define EM_PIXELS 1 /* a pixel is kept as it is */
typedef uint8_t em_value;
#if defined(EM_SSE2)
typedef int16_t em_weight; /* rather than widened each time */
#else
typedef int8_t em_weight;
#endif
#define EM_STORED(u) ((em_value)(u))
#define EM_U(value) ((value) + 0)
#define EM_BIAS(bias, sum_of_weights) (bias)
#endif

/* Output channels that are summed at a time. */
#if defined(EM_VNNI_512)
#define EM_BLOCK 16
#else
#define EM_BLOCK 8
#endif

/* Outputs that fill up the last eight are left out where no vector needs them. */
#if defined(EM_PORTABLE)
#define EM_FILL(zeros)
#define EM_FILLED(outputs) (outputs)
#else
#define EM_FILL(zeros) zeros
#define EM_FILLED(outputs) (((outputs) + 7) / 8 * 8)
#endif
#define EM_NONE 0, 0, 0, 0,

/* EM_CHAIN: how many products are added into each 16-bit lane per group of four taps, before it goes to 32 bits. */
#if defined(EM_AVX2)
#define EM_CHAIN 2
#elif defined(EM_NEON)
#define EM_CHAIN 4
#else
#define EM_CHAIN 0
#endif

#if EM_CHAIN
#define EM_CHAIN_OF(table) table
#else
#define EM_CHAIN_OF(table) 0
#endif

#if EM_FIXED_POINT
typedef struct {
    int32_t significand; /* multiplier = significand * 2^(shift - 31) */
    int8_t shift;
    uint8_t ties_away; /* ties of the second rounding go away from zero, rather than up */
} em_multiplier;
#define EM_MULTIPLIER(real, significand, shift, ties_away) { significand, shift, ties_away }
#else
typedef float em_multiplier;
#define EM_MULTIPLIER(real, significand, shift, ties_away) real
#endif

enum { EM_CONV, EM_CONV_POOL, EM_GROUPED, EM_POOL };
