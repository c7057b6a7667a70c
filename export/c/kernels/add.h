/* Weighted sums of eight or sixteen values, which are integers after a shift to the right: u, to be clamped. */
#if defined(EM_VNNI_512)
EM_INLINE void em_add_block(const em_value *a, const em_value *b, const int32_t *factors, em_value *out) {
    const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)a));
    const __m512i y = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)b));
    const __m512i first = _mm512_mullo_epi32(x, _mm512_set1_epi32(factors[0]));
    const __m512i second = _mm512_mullo_epi32(y, _mm512_set1_epi32(factors[1]));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(first, second), _mm512_set1_epi32(factors[2]));
    const __m512i u = _mm512_max_epi32(_mm512_sra_epi32(sum, _mm_cvtsi32_si128(factors[3])), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtusepi32_epi8(u));
}
#elif defined(EM_AVX2) || defined(EM_VNNI)
EM_INLINE void em_add_block(const em_value *a, const em_value *b, const int32_t *factors, em_value *out) {
    const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)a));
    const __m256i y = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)b));
    const __m256i first = _mm256_mullo_epi32(x, _mm256_set1_epi32(factors[0]));
    const __m256i second = _mm256_mullo_epi32(y, _mm256_set1_epi32(factors[1]));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(first, second), _mm256_set1_epi32(factors[2]));
    const __m256i u = _mm256_sra_epi32(sum, _mm_cvtsi32_si128(factors[3]));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(words, words));
}
#elif defined(EM_SSE2)
/* A factor f is 2048 h + l: the products with h and with l are those of 16 bits. */
EM_INLINE __m128i em_weighted(__m128i pairs, const int32_t *factors) {
    const int32_t a = factors[0], b = factors[1];
    const __m128i low = _mm_set1_epi32((int32_t)((uint32_t)(b & 2047) << 16 | (uint32_t)(a & 2047)));
    const __m128i high = _mm_set1_epi32((int32_t)((uint32_t)(b >> 11) << 16 | (uint32_t)(a >> 11)));
    const __m128i sum = _mm_add_epi32(_mm_slli_epi32(_mm_madd_epi16(pairs, high), 11), _mm_madd_epi16(pairs, low));
    return _mm_sra_epi32(_mm_add_epi32(sum, _mm_set1_epi32(factors[2])), _mm_cvtsi32_si128(factors[3]));
}

EM_INLINE void em_add_block(const em_value *a, const em_value *b, const int32_t *factors, em_value *out) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i x = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(const void *)a), zero);
    const __m128i y = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(const void *)b), zero);
    const __m128i low = em_weighted(_mm_unpacklo_epi16(x, y), factors);
    const __m128i words = _mm_packs_epi32(low, em_weighted(_mm_unpackhi_epi16(x, y), factors));
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(words, words));
}
#elif defined(EM_DOTPROD) || defined(EM_NEON)
EM_INLINE int32x4_t em_weighted(int16x4_t x, int16x4_t y, const int32_t *factors) {
    const int32x4_t constant = vdupq_n_s32(factors[2] + 128 * (factors[0] + factors[1])); /* the values are q */
    const int32x4_t sum = vmlaq_n_s32(vmlaq_n_s32(constant, vmovl_s16(x), factors[0]), vmovl_s16(y), factors[1]);
    return vshlq_s32(sum, vdupq_n_s32(-factors[3]));
}

EM_INLINE void em_add_block(const em_value *a, const em_value *b, const int32_t *factors, em_value *out) {
#if defined(EM_DOTPROD)
    const int16x8_t x = vmovl_s8(vld1_s8(a)), y = vmovl_s8(vld1_s8(b));
#else
    const int16x8_t x = vld1q_s16(a), y = vld1q_s16(b);
#endif
    const int32x4_t low = em_weighted(vget_low_s16(x), vget_low_s16(y), factors);
    const int32x4_t high = em_weighted(vget_high_s16(x), vget_high_s16(y), factors);
    const int16x8_t q = vqsubq_s16(vqmovn_high_s32(vqmovn_s32(low), high), vdupq_n_s16(128));
#if defined(EM_DOTPROD)
    vst1_s8(out, vqmovn_s16(q));
#else
    vst1q_s16(out, vminq_s16(vmaxq_s16(q, vdupq_n_s16(-128)), vdupq_n_s16(127)));
#endif
}
#else
EM_INLINE void em_add_block(const em_value *a, const em_value *b, const int32_t *factors, em_value *out) {
    int i;
    for (i = 0; i < EM_BLOCK; ++i) {
        const int32_t sum = EM_U(a[i]) * factors[0] + EM_U(b[i]) * factors[1] + factors[2];
        const int32_t u = sum < 0 ? 0 : sum >> factors[3];
        out[i] = EM_STORED(u > 255 ? 255 : u);
    }
}
#endif

/* The sum of two rows. A few values are read and written beyond the end. */
static void em_add_row(const em_layer *layer, const em_value *a, const em_value *b, em_value *out) {
    const int32_t factors[4] = {layer->factors[0], layer->factors[1], layer->factors[2], layer->factors[3]};
    const int32_t count = layer->width * layer->outputs;
    int32_t i;
    for (i = 0; i < count; i += EM_BLOCK) em_add_block(a + i, b + i, factors, out + i);
}
