/* Products of eight or sixteen values, each less its zero point. */
#if defined(EM_VNNI_512)
EM_INLINE em_sum em_product(const em_value *a, const em_value *b, int zero_a, int zero_b) {
    const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)a));
    const __m512i y = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)b));
    const __m512i less_a = _mm512_sub_epi32(x, _mm512_set1_epi32(zero_a));
    return _mm512_mullo_epi32(less_a, _mm512_sub_epi32(y, _mm512_set1_epi32(zero_b)));
}
#elif defined(EM_AVX2) || defined(EM_VNNI)
EM_INLINE em_sum em_product(const em_value *a, const em_value *b, int zero_a, int zero_b) {
    const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)a));
    const __m256i y = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)b));
    const __m256i less_a = _mm256_sub_epi32(x, _mm256_set1_epi32(zero_a));
    return _mm256_mullo_epi32(less_a, _mm256_sub_epi32(y, _mm256_set1_epi32(zero_b)));
}
#elif defined(EM_SSE2)
EM_INLINE em_sum em_product(const em_value *a, const em_value *b, int zero_a, int zero_b) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i x = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(const void *)a), zero);
    const __m128i y = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(const void *)b), zero);
    const __m128i less_a = _mm_sub_epi16(x, _mm_set1_epi16((short)zero_a));
    const __m128i less_b = _mm_sub_epi16(y, _mm_set1_epi16((short)zero_b));
    const __m128i low = _mm_mullo_epi16(less_a, less_b), high = _mm_mulhi_epi16(less_a, less_b);
    em_sum sum;
    sum.low = _mm_unpacklo_epi16(low, high);
    sum.high = _mm_unpackhi_epi16(low, high);
    return sum;
}
#elif defined(EM_DOTPROD) || defined(EM_NEON)
EM_INLINE int16x8_t em_less(const em_value *at, int zero) {
#if defined(EM_DOTPROD)
    const int16x8_t q = vmovl_s8(vld1_s8(at));
#else
    const int16x8_t q = vld1q_s16(at);
#endif
    return vsubq_s16(q, vdupq_n_s16((int16_t)(zero - 128)));
}

EM_INLINE em_sum em_product(const em_value *a, const em_value *b, int zero_a, int zero_b) {
    const int16x8_t x = em_less(a, zero_a), y = em_less(b, zero_b);
    em_sum sum;
    sum.low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    sum.high = vmull_high_s16(x, y);
    return sum;
}
#else
EM_INLINE em_sum em_product(const em_value *a, const em_value *b, int zero_a, int zero_b) {
    em_sum sum;
    int i;
    for (i = 0; i < 8; ++i) sum.of[i] = (EM_U(a[i]) - zero_a) * (EM_U(b[i]) - zero_b);
    return sum;
}
#endif

/* The product of two rows, or, if `gate`, of a row and one value for each channel. A few values are read and written
 * beyond the end. */
static void em_multiply_row(const em_layer *layer, const em_value *a, const em_value *b, int gate, em_value *out) {
    const int zero_a = layer->factors[0], zero_b = layer->factors[1], zero_point = layer->zero_point;
    const int positions = gate ? layer->width : 1, count = gate ? layer->outputs : layer->width * layer->outputs;
    em_multiplier multiplier[EM_BLOCK];
    int x, i;
    for (i = 0; i < EM_BLOCK; ++i) multiplier[i] = *layer->multiplier;
    for (x = 0; x < positions; ++x, a += count, out += count) {
        for (i = 0; i < count; i += EM_BLOCK) {
            em_store(em_product(a + i, b + i, zero_a, zero_b), multiplier, zero_point, EM_BLOCK, out + i);
        }
    }
}
