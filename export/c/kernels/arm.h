/* For 64-bit ARM. */
#if defined(EM_DOTPROD) || defined(EM_NEON)
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
    (void)lanes;
    for (run = 0; run < count; ++run) {
        const em_value *in = runs[run] + x * step, *below = pool ? runs[count + run] + x * step : in;
        const em_value *const end = in + 4 * size;
#define EM_FOUR(p) const int16x4_t u = em_four((EM_ROW(p, n, pool) ? below : in) + EM_COLUMN(p, n, pool) * step);
#define EM_WIDE(p, i) \
    sum[p].low = vmlal_lane_s16(sum[p].low, vget_low_s16(w.val[i]), u, i); \
    sum[p].high = vmlal_high_lane_s16(sum[p].high, w.val[i], u, i);
#define EM_ADD(p, i) part[p] = vmlaq_lane_s16(part[p], w.val[i], u, i);
#define EM_APART(p) { EM_FOUR(p) EM_WIDE(p, 0) EM_WIDE(p, 1) EM_WIDE(p, 2) EM_WIDE(p, 3) }
#define EM_FIRST(p) { EM_FOUR(p) part[p] = vmulq_lane_s16(w.val[0], u, 0); EM_ADD(p, 1) EM_ADD(p, 2) EM_ADD(p, 3) }
#define EM_NEXT(p) { EM_FOUR(p) EM_ADD(p, 0) EM_ADD(p, 1) EM_ADD(p, 2) EM_ADD(p, 3) }
#define EM_WIDEN(p) \
    sum[p].low = vaddw_s16(sum[p].low, vget_low_s16(part[p])); \
    sum[p].high = vaddw_high_s16(sum[p].high, part[p]);
        while (in < end) {
            const int length = *(*chain)++;
            const em_value *const stop = in + 4 * length;
            int16x8_t part[8];
            int16x8x4_t w = vld4q_s16(weight); /* by tap: eight channels */
            weight += 32;
            if (!length) { /* four products may not fit 16 bits */
                EM_EACH(n, EM_APART);
                in += 4, below += 4;
                continue;
            }
            EM_EACH(n, EM_FIRST);
            in += 4, below += 4;
            while (in != stop) {
                w = vld4q_s16(weight);
                EM_EACH(n, EM_NEXT);
                in += 4, below += 4;
                weight += 32;
            }
            EM_EACH(n, EM_WIDEN);
        }
#undef EM_FOUR
#undef EM_WIDE
#undef EM_ADD
#undef EM_APART
#undef EM_FIRST
#undef EM_NEXT
#undef EM_WIDEN
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
#endif
