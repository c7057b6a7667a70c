/* For x86-64. */
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

EM_INLINE __m128i em_eight(const em_weight *at) {
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

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
                const __m128i w0 = em_eight(w), w1 = em_eight(w + 8), w2 = em_eight(w + 16), w3 = em_eight(w + 24);
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
#endif
