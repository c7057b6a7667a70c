/* The instructions of SSE2 that the kernels of model.c use, by those of WebAssembly's SIMD128, so that both share their
 * code. Each function computes what Intel's manual says, for the arguments that the kernels give. */
#include <wasm_simd128.h>

typedef v128_t __m128i;
typedef v128_t __m128;

#define EM_MAP static inline __attribute__((always_inline))
#define EM_UNARY(name, from, to, operation) EM_MAP to name(from a) { return operation(a); }
#define EM_BINARY(name, type, operation) EM_MAP type name(type a, type b) { return operation(a, b); }

EM_BINARY(_mm_add_epi32, __m128i, wasm_i32x4_add)
EM_BINARY(_mm_adds_epi16, __m128i, wasm_i16x8_add_sat)
EM_BINARY(_mm_sub_epi16, __m128i, wasm_i16x8_sub)
EM_BINARY(_mm_madd_epi16, __m128i, wasm_i32x4_dot_i16x8)
EM_BINARY(_mm_mullo_epi16, __m128i, wasm_i16x8_mul)
EM_BINARY(_mm_packs_epi32, __m128i, wasm_i16x8_narrow_i32x4)
EM_BINARY(_mm_packus_epi16, __m128i, wasm_u8x16_narrow_i16x8)
EM_BINARY(_mm_cmpgt_epi32, __m128i, wasm_i32x4_gt)
EM_BINARY(_mm_and_si128, __m128i, wasm_v128_and)
EM_BINARY(_mm_or_si128, __m128i, wasm_v128_or)
EM_BINARY(_mm_mul_ps, __m128, wasm_f32x4_mul)
EM_UNARY(_mm_cvtepi32_ps, __m128i, __m128, wasm_f32x4_convert_i32x4)
EM_UNARY(_mm_castsi128_ps, __m128i, __m128, )
EM_UNARY(_mm_castps_si128, __m128, __m128i, )
EM_UNARY(_mm_set1_epi16, short, __m128i, wasm_i16x8_splat)
EM_UNARY(_mm_set1_epi32, int, __m128i, wasm_i32x4_splat)
EM_UNARY(_mm_loadu_si128, const __m128i *, __m128i, wasm_v128_load)
EM_UNARY(_mm_loadu_ps, const float *, __m128, wasm_v128_load)
EM_UNARY(_mm_loadl_epi64, const __m128i *, __m128i, wasm_v128_load64_zero)

EM_MAP __m128i _mm_setzero_si128(void) {
    return wasm_i32x4_splat(0);
}

/* The kernels convert products below 2^30 only. */
EM_MAP __m128i _mm_cvtps_epi32(__m128 a) {
    return wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(a));
}

EM_MAP __m128i _mm_cvtsi32_si128(int a) {
    return wasm_i32x4_replace_lane(wasm_i32x4_splat(0), 0, a);
}

EM_MAP __m128i _mm_andnot_si128(__m128i a, __m128i b) {
    return wasm_v128_andnot(b, a);
}

EM_MAP __m128i _mm_mulhi_epi16(__m128i a, __m128i b) {
    const v128_t low = wasm_i32x4_extmul_low_i16x8(a, b), high = wasm_i32x4_extmul_high_i16x8(a, b);
    return wasm_i16x8_shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
}

EM_MAP __m128i _mm_slli_epi32(__m128i a, int by) {
    return wasm_i32x4_shl(a, (uint32_t)by);
}

EM_MAP __m128i _mm_sra_epi32(__m128i a, __m128i by) { /* by less than 32 */
    return wasm_i32x4_shr(a, (uint32_t)wasm_i32x4_extract_lane(by, 0));
}

EM_MAP __m128i _mm_unpacklo_epi8(__m128i a, __m128i b) {
    return wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

EM_MAP __m128i _mm_unpacklo_epi16(__m128i a, __m128i b) {
    return wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}

EM_MAP __m128i _mm_unpackhi_epi16(__m128i a, __m128i b) {
    return wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

EM_MAP __m128i _mm_unpacklo_epi64(__m128i a, __m128i b) {
    return wasm_i64x2_shuffle(a, b, 0, 2);
}

EM_MAP void _mm_storel_epi64(__m128i *to, __m128i a) {
    wasm_v128_store64_lane(to, a, 0);
}

#define _MM_SHUFFLE(d, c, b, a) a, b, c, d
#define _mm_shuffle_ps(x, y, ...) EM_SHUFFLE(x, y, __VA_ARGS__)
#define EM_SHUFFLE(x, y, a, b, c, d) wasm_i32x4_shuffle(x, y, a, b, 4 + (c), 4 + (d))
