/*
 * Kernels. An activation q (int8) is u = q + 128 (0..255) here, a channel's sum of products starts at its bias, and
 *
 *     u_out = clamp(round_half_even((float)sum * multiplier) + zero_point, 0, 255)
 *
 * Eight output channels are summed at a time, at up to EM_TILE positions of a row. What an output row sees of an input
 * row is a run of consecutive bytes (window columns times channels), taken in groups of four.
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
#define EM_INLINE static inline __attribute__((always_inline))
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
#pragma GCC optimize("no-schedule-insns") /* it would load ahead what there are no registers for */
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
typedef int8_t em_weight;
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

/* A ring of lines, the rows of a map that a layer still needs; all counts are of values. */
typedef struct {
    int32_t at;     /* where it starts in the arena */
    int32_t line;   /* from line to line */
    int16_t slots;  /* lines; after the last one follows a line of padding if `below` */
    int16_t height; /* of the map */
    int16_t width;  /* of the map, times channels */
    int16_t beside; /* padding on each side, times channels */
    uint8_t below;  /* whether rows above and below the map are looked at */
    uint8_t zero;   /* u of the padding */
} em_ring;

typedef struct {
    uint8_t kind;
    uint8_t rows, columns;         /* of the window */
    uint8_t down, right;           /* its stride */
    uint8_t row_step, column_step; /* its dilation */
    uint8_t above;                 /* padding above */
    int16_t height, width;         /* of the output, after the pool of EM_CONV_POOL */
    int16_t channels, outputs;     /* input and output channels of a position */
    int16_t zero_point;            /* of the output, plus 128 */
    int16_t split;                 /* channel groups of EM_GROUPED */
    const em_weight *weight;       /* [outputs / 8][run][group][8 outputs][4 taps]; EM_GROUPED: [output][row][column][input] */
    const int32_t *bias;
    const em_multiplier *multiplier;
    const uint8_t *chain; /* lengths, in groups, of what is added in 16 bits; 0: one group, in 32 bits at once */
} em_layer;

/* Requantization of one sum. */
#if EM_FIXED_POINT
EM_INLINE int32_t em_requantize(int32_t sum, const em_multiplier *multiplier, int32_t zero_point) {
    const int left = multiplier->shift > 0 ? multiplier->shift : 0;
    const int right = multiplier->shift < 0 ? -multiplier->shift : 0;
    const int64_t product = (int64_t)sum * ((int32_t)1 << left) * multiplier->significand;
    const int64_t half_up = product >= 0 ? product + (1 << 30) : (1 << 30) - 1 - product;
    const int32_t high = product >= 0 ? (int32_t)(half_up >> 31) : -(int32_t)(half_up >> 31);
    const int32_t half = right ? (int32_t)1 << (right - 1) : 0;
    const int32_t nudged = high + half - (high < 0 && right && multiplier->ties_away);
    const int32_t u = (nudged >= 0 ? nudged >> right : ~(~nudged >> right)) + zero_point;
    return u < 0 ? 0 : u > 255 ? 255 : u;
}
#elif defined(EM_PORTABLE) || EM_HAS_GROUPED
/* The product is rounded by its bits: a float addition might be contracted with the multiplication into one rounding. */
EM_INLINE int32_t em_requantize(int32_t sum, const em_multiplier *multiplier, int32_t zero_point) {
    const float product = (float)sum * *multiplier;
    uint32_t bits, significand, shift, size;
    int32_t u;
    memcpy(&bits, &product, sizeof bits);
    significand = (bits & 0x7FFFFF) | 0x800000;
    shift = 150 - ((bits >> 23) & 255); /* product = significand / 2^shift, wrapping where it is large */
    if (shift > 25) {
        size = shift > 150 ? 512 : 0; /* at least 2^24, or less than a quarter */
    } else if (shift < 15) {
        size = 512; /* at least 2^9: saturates */
    } else {
        size = (significand + (((uint32_t)1 << (shift - 1)) - 1) + ((significand >> shift) & 1)) >> shift;
    }
    u = zero_point + (bits >> 31 ? -(int32_t)size : (int32_t)size);
    return u < 0 ? 0 : u > 255 ? 255 : u;
}
#endif

#if defined(EM_VNNI_512)
#define EM_MOST 12 /* pixels in a tile */
#define EM_EACH_MORE(n, DO) \
    if ((n) > 8) { DO(8) } \
    if ((n) > 9) { DO(9) } \
    if ((n) > 10) { DO(10) } \
    if ((n) > 11) { DO(11) }
#else
#define EM_MOST 8
#define EM_EACH_MORE(n, DO)
#endif

/* Does something for each pixel of a tile; `n` is constant. */
#define EM_EACH(n, DO) \
    do { \
        if ((n) > 0) { DO(0) } \
        if ((n) > 1) { DO(1) } \
        if ((n) > 2) { DO(2) } \
        if ((n) > 3) { DO(3) } \
        if ((n) > 4) { DO(4) } \
        if ((n) > 5) { DO(5) } \
        if ((n) > 6) { DO(6) } \
        if ((n) > 7) { DO(7) } \
        EM_EACH_MORE(n, DO) \
    } while (0)

/* Where a tile's pixels lie: side by side, or with `pool` in two rows. */
#define EM_ROW(p, n, pool) ((pool) ? (p) / ((n) / 2) : 0)
#define EM_COLUMN(p, n, pool) ((pool) ? (p) % ((n) / 2) : (p))

/* What each instruction set does: em_sums adds up the products of a block of output channels at `n` pixels, em_largest
 * takes the larger of two sums, em_store requantizes one. EM_TILE is how many pixels are summed at a time, EM_POOL_TILE
 * if a 2x2 max pool is taken of them. `lanes` are the block's channels; the weights are the block's. */
#define EM_TO_SUM \
    const int n, const int pool, const em_layer *layer, const em_value *const *runs, const int count, const int size, \
        const int x, const em_weight *weight, const uint8_t **chain, const int lanes, em_sum *sum

/* Pixel `p` of a tile: the first value that it sees of the input row `run`. */
#define EM_IN(p) (runs[EM_ROW(p, n, pool) * count + run] + (x + EM_COLUMN(p, n, pool)) * step)

#if defined(EM_VNNI_512)
#define EM_TILE 12
#define EM_POOL_TILE 12
typedef __m512i em_sum; /* of 16 channels, or of eight in its lower half */

EM_INLINE __m512i em_pair(const void *low, const void *high, int lanes) { /* two times 32 bytes, or 32 and zeros */
    const __m512i first = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)low));
    return lanes > 8 ? _mm512_inserti64x4(first, _mm256_loadu_si256((const __m256i *)high), 1) : first;
}

EM_INLINE __m512i em_four(const em_value *at) { /* four activations, in every lane */
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm512_set1_epi32(four);
}

EM_INLINE em_sum em_bias(const int32_t *bias, int lanes) {
    return em_pair(bias, bias + 8, lanes);
}

EM_INLINE em_sum em_largest(em_sum a, em_sum b) {
    return _mm512_max_epi32(a, b);
}

EM_INLINE void em_store(em_sum sum, const em_multiplier *multiplier, int zero_point, int lanes, em_value *out) {
    const __m512 by = _mm512_castsi512_ps(em_pair(multiplier, multiplier + 8, lanes));
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), by));
    const __m512i moved = _mm512_add_epi32(q, _mm512_set1_epi32(zero_point));
    const __m128i u = _mm512_cvtusepi32_epi8(_mm512_max_epi32(moved, _mm512_setzero_si512()));
    if (lanes > 8) {
        _mm_storeu_si128((__m128i *)(void *)out, u);
    } else {
        _mm_storel_epi64((__m128i *)(void *)out, u);
    }
}
#elif defined(EM_AVX2) || defined(EM_VNNI)
#define EM_TILE 8
#define EM_POOL_TILE 8
typedef __m256i em_sum;

EM_INLINE __m256i em_eight(const void *at) { /* 32 bytes */
    return _mm256_loadu_si256((const __m256i *)at);
}

EM_INLINE __m256i em_four(const em_value *at) { /* four activations, in every lane */
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm256_set1_epi32(four);
}

EM_INLINE em_sum em_bias(const int32_t *bias, int lanes) {
    (void)lanes;
    return em_eight(bias);
}

EM_INLINE em_sum em_largest(em_sum a, em_sum b) {
    return _mm256_max_epi32(a, b);
}

EM_INLINE void em_store(em_sum sum, const em_multiplier *multiplier, int zero_point, int lanes, em_value *out) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(multiplier)));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    const __m128i moved = _mm_adds_epi16(words, _mm_set1_epi16((short)zero_point));
    (void)lanes;
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(moved, moved));
}
#endif

#if defined(EM_VNNI_512) || defined(EM_VNNI)
#if defined(EM_VNNI_512)
#define EM_DOT _mm512_dpbusd_epi32
#define EM_WEIGHTS em_pair(weight, weight + 32 * count * size, lanes)
#else
#define EM_DOT _mm256_dpbusd_avx_epi32
#define EM_WEIGHTS em_eight(weight)
#endif
EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, group;
    (void)chain, (void)lanes;
    for (run = 0; run < count; ++run) {
        for (group = 0; group < size; ++group, weight += 32) {
#define EM_DO(p) sum[p] = EM_DOT(sum[p], em_four(EM_IN(p) + 4 * group), w);
            const em_sum w = EM_WEIGHTS;
            EM_EACH(n, EM_DO);
#undef EM_DO
        }
    }
}
#elif defined(EM_AVX2)
/* Adds `length` groups of taps. Products of a pair of taps, then of several pairs, are added in 16 bits, as the weights
 * allow it; 0 stands for one group whose pairs may not fit 16 bits: its even and odd taps go apart. */
EM_INLINE void em_chain(const int length, const int n, const em_value *const *in, const int at, const em_weight *weight,
                        em_sum *sum) {
    const __m256i w0 = em_eight(weight), w1 = length > 1 ? em_eight(weight + 32) : w0;
    const __m256i w2 = length > 2 ? em_eight(weight + 64) : w0, w3 = length > 3 ? em_eight(weight + 96) : w0;
    const __m256i one = _mm256_set1_epi16(1), low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(w0, 8), 8), odd = _mm256_srai_epi16(w0, 8);
    if (length) {
#define EM_PAIRS(p, i) _mm256_maddubs_epi16(em_four(in[p] + at + 4 * (i)), w##i)
#define EM_DO(p) \
    { \
        __m256i pairs = EM_PAIRS(p, 0); \
        if (length > 1) pairs = _mm256_add_epi16(pairs, EM_PAIRS(p, 1)); \
        if (length > 2) pairs = _mm256_add_epi16(pairs, EM_PAIRS(p, 2)); \
        if (length > 3) pairs = _mm256_add_epi16(pairs, EM_PAIRS(p, 3)); \
        sum[p] = _mm256_add_epi32(sum[p], _mm256_madd_epi16(pairs, one)); \
    }
        EM_EACH(n, EM_DO);
#undef EM_DO
#undef EM_PAIRS
    } else {
#define EM_DO(p) \
    { \
        const __m256i four = em_four(in[p] + at); \
        sum[p] = _mm256_add_epi32(sum[p], _mm256_madd_epi16(_mm256_and_si256(four, low), even)); \
        sum[p] = _mm256_add_epi32(sum[p], _mm256_madd_epi16(_mm256_srli_epi16(four, 8), odd)); \
    }
        EM_EACH(n, EM_DO);
#undef EM_DO
    }
}

EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, group;
    (void)lanes;
    for (run = 0; run < count; ++run) {
        const em_value *in[EM_TILE];
#define EM_DO(p) in[p] = EM_IN(p);
        EM_EACH(n, EM_DO);
#undef EM_DO
        for (group = 0; group < size;) {
            const int length = *(*chain)++, groups = length ? length : 1;
            switch (length) {
            case 4: em_chain(4, n, in, 4 * group, weight, sum); break;
            case 3: em_chain(3, n, in, 4 * group, weight, sum); break;
            case 2: em_chain(2, n, in, 4 * group, weight, sum); break;
            case 1: em_chain(1, n, in, 4 * group, weight, sum); break;
            default: em_chain(0, n, in, 4 * group, weight, sum); break;
            }
            group += groups;
            weight += 32 * groups;
        }
    }
}
#elif defined(EM_SSE2)
#define EM_TILE 2
#define EM_POOL_TILE 4
typedef struct {
    __m128i low, high;
} em_sum;

EM_INLINE __m128i em_four(const em_value *at) { /* four activations as 16 bits, twice */
    int32_t four;
    __m128i words;
    memcpy(&four, at, sizeof four);
    words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), _mm_setzero_si128());
    return _mm_unpacklo_epi64(words, words);
}

EM_INLINE __m128i em_halves(__m128i a, __m128i b) { /* of four channels, the sums of taps 0, 1 and of taps 2, 3 */
    const __m128 x = _mm_castsi128_ps(a), y = _mm_castsi128_ps(b);
    return _mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(x, y, _MM_SHUFFLE(2, 0, 2, 0))),
                         _mm_castps_si128(_mm_shuffle_ps(x, y, _MM_SHUFFLE(3, 1, 3, 1))));
}

EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, group, p;
    (void)chain, (void)lanes;
    for (p = 0; p < n; p += 2) { /* two pixels at a time */
        const int other = p + 1 < n ? p + 1 : p;
        const em_weight *w = weight;
        __m128i a0 = _mm_setzero_si128(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
        for (run = 0; run < count; ++run) {
            const em_value *in = EM_IN(p);
            const int beside = other == p ? 0 : step; /* a pair lies in one row */
            for (group = 0; group < size; ++group, in += 4, w += 32) {
                const __m128i low = _mm_loadu_si128((const __m128i *)(const void *)w);
                const __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(w + 16));
                const __m128i w0 = _mm_srai_epi16(_mm_unpacklo_epi8(low, low), 8);
                const __m128i w1 = _mm_srai_epi16(_mm_unpackhi_epi8(low, low), 8);
                const __m128i w2 = _mm_srai_epi16(_mm_unpacklo_epi8(high, high), 8);
                const __m128i w3 = _mm_srai_epi16(_mm_unpackhi_epi8(high, high), 8);
                const __m128i u = em_four(in);
                a0 = _mm_add_epi32(a0, _mm_madd_epi16(u, w0));
                a1 = _mm_add_epi32(a1, _mm_madd_epi16(u, w1));
                a2 = _mm_add_epi32(a2, _mm_madd_epi16(u, w2));
                a3 = _mm_add_epi32(a3, _mm_madd_epi16(u, w3));
                if (n > 1) {
                    const __m128i v = em_four(in + beside);
                    b0 = _mm_add_epi32(b0, _mm_madd_epi16(v, w0));
                    b1 = _mm_add_epi32(b1, _mm_madd_epi16(v, w1));
                    b2 = _mm_add_epi32(b2, _mm_madd_epi16(v, w2));
                    b3 = _mm_add_epi32(b3, _mm_madd_epi16(v, w3));
                }
            }
        }
        sum[p].low = _mm_add_epi32(sum[p].low, em_halves(a0, a1));
        sum[p].high = _mm_add_epi32(sum[p].high, em_halves(a2, a3));
        if (n > 1) {
            sum[other].low = _mm_add_epi32(sum[other].low, em_halves(b0, b1));
            sum[other].high = _mm_add_epi32(sum[other].high, em_halves(b2, b3));
        }
    }
}

EM_INLINE em_sum em_bias(const int32_t *bias, int lanes) {
    em_sum sum;
    (void)lanes;
    sum.low = _mm_loadu_si128((const __m128i *)(const void *)bias);
    sum.high = _mm_loadu_si128((const __m128i *)(const void *)(bias + 4));
    return sum;
}

EM_INLINE __m128i em_larger(__m128i a, __m128i b) {
    const __m128i first = _mm_cmpgt_epi32(a, b);
    return _mm_or_si128(_mm_and_si128(first, a), _mm_andnot_si128(first, b));
}

EM_INLINE em_sum em_largest(em_sum a, em_sum b) {
    a.low = em_larger(a.low, b.low);
    a.high = em_larger(a.high, b.high);
    return a;
}

EM_INLINE void em_store(em_sum sum, const em_multiplier *multiplier, int zero_point, int lanes, em_value *out) {
    const __m128i low = _mm_cvtps_epi32(_mm_mul_ps(_mm_cvtepi32_ps(sum.low), _mm_loadu_ps(multiplier)));
    const __m128i high = _mm_cvtps_epi32(_mm_mul_ps(_mm_cvtepi32_ps(sum.high), _mm_loadu_ps(multiplier + 4)));
    const __m128i moved = _mm_adds_epi16(_mm_packs_epi32(low, high), _mm_set1_epi16((short)zero_point));
    (void)lanes;
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(moved, moved));
}
#elif defined(EM_DOTPROD) || defined(EM_NEON)
typedef struct {
    int32x4_t low, high;
} em_sum;

#if defined(EM_DOTPROD)
#define EM_TILE 8
#define EM_POOL_TILE 8
EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, group;
    (void)chain, (void)lanes;
    for (run = 0; run < count; ++run) {
        const em_value *in = runs[run] + x * step, *below = pool ? runs[count + run] + x * step : in;
        int8x16_t u[8];
#define EM_LOAD(p) u[p] = vld1q_s8((EM_ROW(p, n, pool) ? below : in) + EM_COLUMN(p, n, pool) * step);
#define EM_DOT(p, lane) \
    sum[p].low = vdotq_laneq_s32(sum[p].low, low, u[p], lane); \
    sum[p].high = vdotq_laneq_s32(sum[p].high, high, u[p], lane);
#define EM_DO0(p) EM_DOT(p, 0)
#define EM_DO1(p) EM_DOT(p, 1)
#define EM_DO2(p) EM_DOT(p, 2)
#define EM_DO3(p) EM_DOT(p, 3)
#define EM_GROUP(i) \
    { \
        const int8x16_t low = vld1q_s8(weight + 32 * (i)), high = vld1q_s8(weight + 32 * (i) + 16); \
        EM_EACH(n, EM_DO##i); \
    }
        for (group = 0; group + 4 <= size; group += 4, weight += 128, in += 16, below += 16) {
            EM_EACH(n, EM_LOAD);
            EM_GROUP(0)
            EM_GROUP(1)
            EM_GROUP(2)
            EM_GROUP(3)
        }
        if (group < size) {
            EM_EACH(n, EM_LOAD);
            EM_GROUP(0)
            if (group + 1 < size) EM_GROUP(1)
            if (group + 2 < size) EM_GROUP(2)
            weight += 32 * (size - group);
        }
#undef EM_LOAD
#undef EM_DOT
#undef EM_DO0
#undef EM_DO1
#undef EM_DO2
#undef EM_DO3
#undef EM_GROUP
    }
}
#else
#define EM_TILE 8
#define EM_POOL_TILE 8
EM_INLINE int16x4_t em_four(const em_value *at) { /* four activations */
    int16x4_t four = vld1_s16(at);
#if defined(__GNUC__)
    __asm__("" : "+x"(four)); /* or GCC would load and duplicate each by itself, rather than multiply by a lane */
#endif
    return four;
}

EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run;
    size_t group;
    (void)lanes;
    for (run = 0; run < count; ++run) {
        const em_value *in = runs[run] + x * step, *below = pool ? runs[count + run] + x * step : in;
        for (group = 0; group < 4 * (size_t)size;) { /* here in taps */
            int length = *(*chain)++;
            int16x8_t part[8];
            int16x8x4_t w = vld4q_s16(weight); /* by tap: eight channels */
            if (!length) { /* four products may not fit 16 bits */
#define EM_TAP(p, i) \
    sum[p].low = vmlal_lane_s16(sum[p].low, vget_low_s16(w.val[i]), u, i); \
    sum[p].high = vmlal_high_lane_s16(sum[p].high, w.val[i], u, i);
#define EM_DO(p) \
    { \
        const int16x4_t u = em_four((EM_ROW(p, n, pool) ? below : in) + EM_COLUMN(p, n, pool) * step); \
        EM_TAP(p, 0) \
        EM_TAP(p, 1) \
        EM_TAP(p, 2) \
        EM_TAP(p, 3) \
    }
                EM_EACH(n, EM_DO);
#undef EM_DO
#undef EM_TAP
                group += 4, in += 4, below += 4;
                weight += 32;
                continue;
            }
#define EM_DO(p) \
    { \
        const int16x4_t u = em_four((EM_ROW(p, n, pool) ? below : in) + EM_COLUMN(p, n, pool) * step); \
        part[p] = vmulq_lane_s16(w.val[0], u, 0); \
        part[p] = vmlaq_lane_s16(part[p], w.val[1], u, 1); \
        part[p] = vmlaq_lane_s16(part[p], w.val[2], u, 2); \
        part[p] = vmlaq_lane_s16(part[p], w.val[3], u, 3); \
    }
            EM_EACH(n, EM_DO);
#undef EM_DO
            for (;;) {
                group += 4, in += 4, below += 4;
                weight += 32;
                if (--length <= 0) break;
                w = vld4q_s16(weight);
#define EM_DO(p) \
    { \
        const int16x4_t u = em_four((EM_ROW(p, n, pool) ? below : in) + EM_COLUMN(p, n, pool) * step); \
        part[p] = vmlaq_lane_s16(part[p], w.val[0], u, 0); \
        part[p] = vmlaq_lane_s16(part[p], w.val[1], u, 1); \
        part[p] = vmlaq_lane_s16(part[p], w.val[2], u, 2); \
        part[p] = vmlaq_lane_s16(part[p], w.val[3], u, 3); \
    }
                EM_EACH(n, EM_DO);
#undef EM_DO
            }
#define EM_DO(p) \
    sum[p].low = vaddw_s16(sum[p].low, vget_low_s16(part[p])); \
    sum[p].high = vaddw_high_s16(sum[p].high, part[p]);
            EM_EACH(n, EM_DO);
#undef EM_DO
        }
    }
}
#endif

EM_INLINE em_sum em_bias(const int32_t *bias, int lanes) {
    em_sum sum;
    (void)lanes;
    sum.low = vld1q_s32(bias);
    sum.high = vld1q_s32(bias + 4);
    return sum;
}

EM_INLINE em_sum em_largest(em_sum a, em_sum b) {
    a.low = vmaxq_s32(a.low, b.low);
    a.high = vmaxq_s32(a.high, b.high);
    return a;
}

EM_INLINE void em_store(em_sum sum, const em_multiplier *multiplier, int zero_point, int lanes, em_value *out) {
    const int32x4_t low = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum.low), vld1q_f32(multiplier)));
    const int32x4_t high = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum.high), vld1q_f32(multiplier + 4)));
    const int16x8_t q = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(low), high), vdupq_n_s16((int16_t)(zero_point - 128)));
    (void)lanes;
#if defined(EM_DOTPROD)
    vst1_s8(out, vqmovn_s16(q));
#else
    vst1q_s16(out, vminq_s16(vmaxq_s16(q, vdupq_n_s16(-128)), vdupq_n_s16(127)));
#endif
}
#else
typedef struct {
    int32_t of[8];
} em_sum;

#if defined(EM_DSP)
#define EM_TILE 2
#define EM_POOL_TILE 4
EM_INLINE uint32_t em_word(const void *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Bytes 1 and 3 of a word as 16 bits each; in assembly, as compilers turn the word in an instruction of its own. */
EM_INLINE int32_t em_odd_u(uint32_t word) {
    int32_t halves;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
    return halves;
}

EM_INLINE int32_t em_odd_s(uint32_t word) {
    int32_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
    return halves;
}

/* Two channels at two pixels, each word of four taps split into two pairs of 16 bits. */
EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, i, p;
    (void)chain;
    for (p = 0; p < n; p += 2) {
        const int other = p + 1 < n ? p + 1 : p;
        const int beside = other == p ? 0 : step; /* a pair lies in one row */
        for (i = 0; i < lanes; i += 2) {
            const int next = i + 1 < lanes ? i + 1 : i;
            const em_weight *w = weight + 4 * i;
            int32_t a = sum[p].of[i], b = sum[p].of[next], c = sum[other].of[i], d = sum[other].of[next];
            for (run = 0; run < count; ++run) {
                const em_value *in = EM_IN(p);
                const em_value *last = in + 4 * size;
                for (; in < last; in += 4, w += 4 * lanes) {
                    const uint32_t u = em_word(in), v = em_word(in + beside);
                    const int32_t u0 = (int32_t)__uxtb16(u), u1 = em_odd_u(u);
                    const int32_t v0 = (int32_t)__uxtb16(v), v1 = em_odd_u(v);
                    uint32_t word = em_word(w);
                    int32_t half = __sxtb16((int32_t)word);
                    a = __smlad(u0, half, a);
                    c = __smlad(v0, half, c);
                    half = em_odd_s(word);
                    a = __smlad(u1, half, a);
                    c = __smlad(v1, half, c);
                    word = em_word(w + 4 * (next - i));
                    half = __sxtb16((int32_t)word);
                    b = __smlad(u0, half, b);
                    d = __smlad(v0, half, d);
                    half = em_odd_s(word);
                    b = __smlad(u1, half, b);
                    d = __smlad(v1, half, d);
                }
            }
            sum[p].of[next] = b;
            sum[p].of[i] = a;
            sum[other].of[next] = d;
            sum[other].of[i] = c;
        }
    }
}
#else
#define EM_TILE 1
#define EM_POOL_TILE 4
EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, i, p;
    (void)chain;
    for (p = 0; p < n; ++p) {
        for (i = 0; i < lanes; ++i) {
            const em_weight *w = weight + 4 * i;
            int32_t found = sum[p].of[i];
            for (run = 0; run < count; ++run) {
                const em_value *in = EM_IN(p);
                const em_value *last = in + 4 * size;
                for (; in < last; in += 4, w += 4 * lanes) {
                    found += in[0] * w[0] + in[1] * w[1] + in[2] * w[2] + in[3] * w[3];
                }
            }
            sum[p].of[i] = found;
        }
    }
}
#endif

EM_INLINE em_sum em_bias(const int32_t *bias, int lanes) {
    em_sum sum;
    int i;
    for (i = 0; i < 8; ++i) sum.of[i] = i < lanes ? bias[i] : 0;
    return sum;
}

EM_INLINE em_sum em_largest(em_sum a, em_sum b) {
    int i;
    for (i = 0; i < 8; ++i) a.of[i] = a.of[i] > b.of[i] ? a.of[i] : b.of[i];
    return a;
}

EM_INLINE void em_store(em_sum sum, const em_multiplier *multiplier, int zero_point, int lanes, em_value *out) {
    int i;
    for (i = 0; i < lanes; ++i) out[i] = (em_value)em_requantize(sum.of[i], multiplier + i, zero_point);
}
#endif

/* `n` neighbouring outputs from column `x` of the convolution on, or n / 4 of them if the largest of 2x2 is taken. The
 * last channels come first: where they do not fill up eight, the rest of what is stored falls on the next position. */
EM_INLINE void em_tile(const int n, const int pool, const em_layer *layer, const em_value *const *runs, int count, int size,
                       int x, em_value *out) {
    const int outputs = EM_FILLED(layer->outputs);
    const uint8_t *chain = layer->chain;
    int block;
    for (block = (outputs - 1) / EM_BLOCK; block >= 0; --block) {
        const int first = EM_BLOCK * block, lanes = outputs - first < EM_BLOCK ? outputs - first : EM_BLOCK;
        const em_multiplier *multiplier = layer->multiplier + first;
        em_value *to = out + first;
        em_sum sum[EM_MOST];
        sum[0] = em_bias(layer->bias + first, lanes);
#define EM_DO(p) sum[p] = sum[0];
        EM_EACH(n, EM_DO);
#undef EM_DO
        em_sums(n, pool, layer, runs, count, size, x, layer->weight + 4 * first * count * size, &chain, lanes, sum);
        if (pool) {
#define EM_DO(p) \
    if ((p) < (n) / 4) { \
        const em_sum above = em_largest(sum[2 * (p) % EM_MOST], sum[(2 * (p) + 1) % EM_MOST]); \
        const em_sum below = em_largest(sum[((n) / 2 + 2 * (p)) % EM_MOST], sum[((n) / 2 + 2 * (p) + 1) % EM_MOST]); \
        em_store(em_largest(above, below), multiplier, layer->zero_point, lanes, to + (p)*layer->outputs); \
    }
            EM_EACH(n, EM_DO);
#undef EM_DO
        } else {
#define EM_DO(p) em_store(sum[p], multiplier, layer->zero_point, lanes, to + (p)*layer->outputs);
            EM_EACH(n, EM_DO);
#undef EM_DO
        }
    }
}

EM_INLINE void em_tile_of(int n, const em_layer *layer, const em_value *const *runs, int count, int size, int x,
                          em_value *out) {
    switch (n) {
#if EM_TILE >= 12
    case 12: em_tile(12, 0, layer, runs, count, size, x, out); break;
    case 11: em_tile(11, 0, layer, runs, count, size, x, out); break;
    case 10: em_tile(10, 0, layer, runs, count, size, x, out); break;
    case 9: em_tile(9, 0, layer, runs, count, size, x, out); break;
#endif
#if EM_TILE >= 8
    case 8: em_tile(8, 0, layer, runs, count, size, x, out); break;
    case 7: em_tile(7, 0, layer, runs, count, size, x, out); break;
    case 6: em_tile(6, 0, layer, runs, count, size, x, out); break;
    case 5: em_tile(5, 0, layer, runs, count, size, x, out); break;
    case 4: em_tile(4, 0, layer, runs, count, size, x, out); break;
    case 3: em_tile(3, 0, layer, runs, count, size, x, out); break;
#endif
#if EM_TILE >= 2
    case 2: em_tile(2, 0, layer, runs, count, size, x, out); break;
#endif
    case 1: em_tile(1, 0, layer, runs, count, size, x, out); break;
    default: break;
    }
}

/* A row of outputs; rows[i] is the input row i of those that it sees. */
EM_INLINE void em_conv_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    const em_value *runs[EM_RUNS];
    const int whole = layer->column_step == 1; /* a window's row is one run; dilated, each of its columns is */
    const int columns = whole ? 1 : layer->columns;
    const int count = layer->rows * columns;
    const int size = ((whole ? layer->columns : 1) * layer->channels + 3) / 4;
    const int pooled = layer->kind == EM_CONV_POOL;
    const int tiles = (layer->width + EM_TILE - 1) / EM_TILE, n = (layer->width + tiles - 1) / tiles;
    int below, row, column, i = 0, x;
    for (below = 0; below <= pooled; ++below) {
        for (row = 0; row < layer->rows; ++row) {
            for (column = 0; column < columns; ++column) {
                runs[i++] = rows[below * layer->down + row * layer->row_step] +
                            column * layer->column_step * layer->channels;
            }
        }
    }
#if EM_HAS_CONV_POOL
    if (pooled) {
        for (x = 0; x + EM_POOL_TILE / 4 <= layer->width; x += EM_POOL_TILE / 4) {
            em_tile(EM_POOL_TILE, 1, layer, runs, count, size, 2 * x, out + x * layer->outputs);
        }
#if EM_POOL_TILE > 8
        if (x + 2 <= layer->width) {
            em_tile(8, 1, layer, runs, count, size, 2 * x, out + x * layer->outputs);
            x += 2;
        }
#endif
        if (x < layer->width) em_tile(4, 1, layer, runs, count, size, 2 * x, out + x * layer->outputs);
        return;
    }
#endif
    for (x = 0; x + n <= layer->width; x += n) em_tile_of(n, layer, runs, count, size, x, out + x * layer->outputs);
    em_tile_of(layer->width - x, layer, runs, count, size, x, out + x * layer->outputs);
}

#if defined(EM_PORTABLE)
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    em_conv_row(em_layers + index, rows, out);
}
#else
/* One piece of code for each convolution, so that the compiler knows its sizes. */
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    (void)rows, (void)out; /* there may be none */
    switch (index) {
#define EM_DO(i) case i: em_conv_row(em_layers + i, rows, out); break;
        EM_CONVOLUTIONS(EM_DO)
#undef EM_DO
    default: break;
    }
}
#endif

#if EM_HAS_GROUPED
/* A convolution whose output channels see only their own group of the input channels. */
static void em_grouped_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    const int inputs = layer->channels / layer->split, outputs = layer->outputs / layer->split;
    int x, output, row, column, i;
    for (x = 0; x < layer->width; ++x) {
        const em_weight *weight = layer->weight;
        for (output = 0; output < layer->outputs; ++output) {
            const int at = x * layer->right * layer->channels + output / outputs * inputs;
            int32_t sum = layer->bias[output];
            for (row = 0; row < layer->rows; ++row) {
                for (column = 0; column < layer->columns; ++column) {
                    const em_value *in =
                        rows[row * layer->row_step] + at + column * layer->column_step * layer->channels;
                    for (i = 0; i < inputs; ++i) sum += in[i] * *weight++;
                }
            }
            *out++ = EM_STORED(em_requantize(sum, layer->multiplier + output, layer->zero_point));
        }
    }
}
#endif

#if EM_HAS_POOL
/* The largest value under each window. */
static void em_pool_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    int x, channel, row, column;
    for (x = 0; x < layer->width; ++x) {
        for (channel = 0; channel < layer->channels; ++channel) {
            em_value largest = EM_STORED(0);
            for (row = 0; row < layer->rows; ++row) {
                for (column = 0; column < layer->columns; ++column) {
                    const int at = x * layer->right + column * layer->column_step;
                    const em_value value = rows[row * layer->row_step][at * layer->channels + channel];
                    largest = value > largest ? value : largest;
                }
            }
            *out++ = largest;
        }
    }
}
#endif

static em_value *em_line(const em_ring *ring, em_value *arena, int row) {
    const int slot = row < 0 || row >= ring->height ? ring->slots : row % ring->slots;
    return arena + ring->at + slot * ring->line;
}

/* Lets layer `index`, and those after it, compute every row for which `done[index]` rows of its input suffice. */
static void em_feed(int index, em_value *arena, int16_t *done) {
    const em_layer *layer = em_layers + index;
    const em_ring *from = em_rings + index, *to = from + 1;
    const int pooled = layer->kind == EM_CONV_POOL;
    const int rows = (layer->rows - 1) * layer->row_step + 1 + (pooled ? layer->down : 0);
    while (done[index + 1] < layer->height) {
        const em_value *seen[EM_ROWS];
        const int first = done[index + 1] * layer->down * (pooled ? 2 : 1) - layer->above;
        em_value *out = em_line(to, arena, done[index + 1]) + to->beside;
        int i;
        if ((first + rows < from->height ? first + rows : from->height) > done[index]) return;
        for (i = 0; i < rows; ++i) seen[i] = em_line(from, arena, first + i);
        switch (layer->kind) {
#if EM_HAS_GROUPED
        case EM_GROUPED: em_grouped_row(layer, seen, out); break;
#endif
#if EM_HAS_POOL
        case EM_POOL: em_pool_row(layer, seen, out); break;
#endif
        default: em_conv(index, seen, out); break;
        }
        /* Eight channels at a time may have been written beyond the last position. */
        for (i = 0; i < to->beside; ++i) out[to->width + i] = EM_STORED(to->zero);
#if defined(EDGE_MNIST_TAP)
        EDGE_MNIST_TAP(index, out, to->width);
#endif
        ++done[index + 1];
        if (index + 1 < EM_LAYERS) em_feed(index + 1, arena, done);
    }
}

static int em_run(const uint8_t *pixels, int8_t *logits, em_value *arena) {
    const em_ring *first = em_rings, *last = em_rings + EM_LAYERS;
    const int channels = em_layers[EM_LAYERS - 1].outputs, positions = last->width / channels;
    int16_t done[EM_LAYERS + 1] = {0};
    int i, row, channel, x, best = 0;
    for (i = 0; i <= EM_LAYERS; ++i) {
        const em_ring *ring = em_rings + i;
        const int values = ring->line * (ring->slots + ring->below);
        if (sizeof(em_value) == 1 || !(ring->beside || ring->below)) { /* without padding, any value will do */
            memset(arena + ring->at, EM_STORED(ring->zero), (size_t)values * sizeof(em_value));
        } else {
            for (x = 0; x < values; ++x) arena[ring->at + x] = EM_STORED(ring->zero);
        }
    }
    while (done[0] < first->height) {
        em_value *line = em_line(first, arena, done[0]) + first->beside;
#if defined(EM_PIXELS)
        memcpy(line, pixels, (size_t)first->width);
        pixels += first->width;
#else
        for (x = 0; x < first->width; ++x) line[x] = EM_STORED(*pixels++);
#endif
        ++done[0];
        em_feed(0, arena, done);
    }
    for (i = 0, channel = 0; channel < channels; ++channel) {
        for (row = 0; row < last->height; ++row) {
            for (x = 0; x < positions; ++x, ++i) {
                logits[i] = (int8_t)(EM_U(em_line(last, arena, row)[x * channels + channel]) - 128);
                if (logits[i] > logits[best]) best = i;
            }
        }
    }
    return best;
}
