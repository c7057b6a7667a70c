/* Depthwise convolutions: each channel sees only itself, so that a vector holds neighbouring channels. em_gather puts up
 * to four rows of a column together, channel by channel, and em_taps adds the products with one column of the weights.
 * A row that is not there has zero weights. */
#if defined(EM_VNNI_512)
typedef __m512i em_column;
typedef __m512i em_column_weights;

EM_INLINE __m512i em_wide(const em_value *at, int lanes) { /* bytes as 32 bits */
    return lanes > 8 ? _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at))
                     : _mm512_zextsi256_si512(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at)));
}

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    __m512i column = em_wide(rows[0] + at, lanes);
    if (count > 1) column = _mm512_or_si512(column, _mm512_slli_epi32(em_wide(rows[1] + at, lanes), 8));
    if (count > 2) column = _mm512_or_si512(column, _mm512_slli_epi32(em_wide(rows[2] + at, lanes), 16));
    if (count > 3) column = _mm512_or_si512(column, _mm512_slli_epi32(em_wide(rows[3] + at, lanes), 24));
    return column;
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    return em_pair(weight, weight + 32 * size, lanes);
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    (void)count, (void)lanes;
    return _mm512_dpbusd_epi32(sum, column, weight);
}
#elif defined(EM_VNNI)
typedef __m256i em_column;
typedef __m256i em_column_weights;

EM_INLINE __m256i em_wide(const em_value *at) { /* eight bytes as 32 bits */
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at));
}

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    __m256i column = em_wide(rows[0] + at);
    (void)lanes;
    if (count > 1) column = _mm256_or_si256(column, _mm256_slli_epi32(em_wide(rows[1] + at), 8));
    if (count > 2) column = _mm256_or_si256(column, _mm256_slli_epi32(em_wide(rows[2] + at), 16));
    if (count > 3) column = _mm256_or_si256(column, _mm256_slli_epi32(em_wide(rows[3] + at), 24));
    return column;
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    (void)size, (void)lanes;
    return em_eight(weight);
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    (void)count, (void)lanes;
    return _mm256_dpbusd_avx_epi32(sum, column, weight);
}
#elif defined(EM_AVX2)
typedef struct {
    __m256i even, odd; /* rows 0 and 2, rows 1 and 3, as 16 bits */
} em_column;
typedef em_column em_column_weights;

EM_INLINE __m256i em_wide(const em_value *at) { /* eight bytes as 32 bits */
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at));
}

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    em_column column;
    (void)lanes;
    column.even = em_wide(rows[0] + at);
    column.odd = count > 1 ? em_wide(rows[1] + at) : _mm256_setzero_si256();
    if (count > 2) column.even = _mm256_or_si256(column.even, _mm256_slli_epi32(em_wide(rows[2] + at), 16));
    if (count > 3) column.odd = _mm256_or_si256(column.odd, _mm256_slli_epi32(em_wide(rows[3] + at), 16));
    return column;
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    const __m256i four = em_eight(weight);
    em_column_weights split;
    (void)size, (void)lanes;
    split.even = _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8);
    split.odd = _mm256_srai_epi16(four, 8);
    return split;
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    (void)count, (void)lanes;
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(column.even, weight.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(column.odd, weight.odd));
}
#elif defined(EM_SSE2)
typedef struct {
    __m128i low[2], high[2]; /* of four channels each: rows 0 and 1, rows 2 and 3, as 16 bits */
} em_column;
typedef em_column em_column_weights;

EM_INLINE __m128i em_wide(const em_value *at) { /* eight bytes as 16 bits */
    return _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(const void *)at), _mm_setzero_si128());
}

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i a = em_wide(rows[0] + at), b = count > 1 ? em_wide(rows[1] + at) : zero;
    const __m128i c = count > 2 ? em_wide(rows[2] + at) : zero, d = count > 3 ? em_wide(rows[3] + at) : zero;
    em_column column;
    (void)lanes;
    column.low[0] = _mm_unpacklo_epi16(a, b);
    column.high[0] = _mm_unpackhi_epi16(a, b);
    column.low[1] = _mm_unpacklo_epi16(c, d);
    column.high[1] = _mm_unpackhi_epi16(c, d);
    return column;
}

EM_INLINE __m128i em_every_other(__m128i a, __m128i b, int odd) { /* 32 bits of every 64 */
    const __m128 x = _mm_castsi128_ps(a), y = _mm_castsi128_ps(b);
    return _mm_castps_si128(odd ? _mm_shuffle_ps(x, y, _MM_SHUFFLE(3, 1, 3, 1))
                                : _mm_shuffle_ps(x, y, _MM_SHUFFLE(2, 0, 2, 0)));
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    const __m128i a = em_eight(weight), b = em_eight(weight + 8), c = em_eight(weight + 16), d = em_eight(weight + 24);
    em_column_weights split;
    (void)size, (void)lanes;
    split.low[0] = em_every_other(a, b, 0);
    split.low[1] = em_every_other(a, b, 1);
    split.high[0] = em_every_other(c, d, 0);
    split.high[1] = em_every_other(c, d, 1);
    return split;
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    (void)count, (void)lanes;
    sum.low = _mm_add_epi32(sum.low, _mm_madd_epi16(column.low[0], weight.low[0]));
    sum.low = _mm_add_epi32(sum.low, _mm_madd_epi16(column.low[1], weight.low[1]));
    sum.high = _mm_add_epi32(sum.high, _mm_madd_epi16(column.high[0], weight.high[0]));
    sum.high = _mm_add_epi32(sum.high, _mm_madd_epi16(column.high[1], weight.high[1]));
    return sum;
}
#elif defined(EM_DOTPROD)
typedef struct {
    int8x16_t low, high; /* of four channels each, the four rows */
} em_column;
typedef em_column em_column_weights;

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    const int8x8_t zero = vdup_n_s8(0);
    const int8x8_t a = vld1_s8(rows[0] + at), b = count > 1 ? vld1_s8(rows[1] + at) : zero;
    const int8x8_t c = count > 2 ? vld1_s8(rows[2] + at) : zero, d = count > 3 ? vld1_s8(rows[3] + at) : zero;
    const int16x8_t first = vreinterpretq_s16_s8(vzip1q_s8(vcombine_s8(a, a), vcombine_s8(b, b)));
    const int16x8_t second = vreinterpretq_s16_s8(vzip1q_s8(vcombine_s8(c, c), vcombine_s8(d, d)));
    em_column column;
    (void)lanes;
    column.low = vreinterpretq_s8_s16(vzip1q_s16(first, second));
    column.high = vreinterpretq_s8_s16(vzip2q_s16(first, second));
    return column;
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    em_column_weights loaded;
    (void)size, (void)lanes;
    loaded.low = vld1q_s8(weight);
    loaded.high = vld1q_s8(weight + 16);
    return loaded;
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    (void)count, (void)lanes;
    sum.low = vdotq_s32(sum.low, weight.low, column.low);
    sum.high = vdotq_s32(sum.high, weight.high, column.high);
    return sum;
}
#elif defined(EM_NEON)
typedef int16x8x4_t em_column; /* by row, eight channels */
typedef int16x8x4_t em_column_weights;

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    em_column column;
    (void)lanes;
    column.val[0] = vld1q_s16(rows[0] + at);
    column.val[1] = count > 1 ? vld1q_s16(rows[1] + at) : vdupq_n_s16(0);
    column.val[2] = count > 2 ? vld1q_s16(rows[2] + at) : vdupq_n_s16(0);
    column.val[3] = count > 3 ? vld1q_s16(rows[3] + at) : vdupq_n_s16(0);
    return column;
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    (void)size, (void)lanes;
    return vld4q_s16(weight);
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    (void)lanes;
#define EM_TAP(i) \
    if (count > i) { \
        sum.low = vmlal_s16(sum.low, vget_low_s16(column.val[i]), vget_low_s16(weight.val[i])); \
        sum.high = vmlal_high_s16(sum.high, column.val[i], weight.val[i]); \
    }
    EM_TAP(0)
    EM_TAP(1)
    EM_TAP(2)
    EM_TAP(3)
#undef EM_TAP
    return sum;
}
#else
typedef struct {
    const em_value *row[4];
} em_column;
typedef const em_weight *em_column_weights;

EM_INLINE em_column em_gather(const em_value *const *rows, int count, int at, int lanes) {
    em_column column;
    int i;
    (void)lanes;
    for (i = 0; i < 4; ++i) column.row[i] = rows[i < count ? i : 0] + at;
    return column;
}

EM_INLINE em_column_weights em_load_weights(const em_weight *weight, int size, int lanes) {
    (void)size, (void)lanes;
    return weight;
}

EM_INLINE em_sum em_taps(em_sum sum, em_column column, em_column_weights weight, int count, int lanes) {
    int i;
    (void)count;
    for (i = 0; i < lanes; ++i, weight += 4) {
        sum.of[i] += column.row[0][i] * weight[0] + column.row[1][i] * weight[1] + column.row[2][i] * weight[2] +
                     column.row[3][i] * weight[3];
    }
    return sum;
}
#endif

/* From the weights of a column to those of the next one. */
#if defined(EM_PORTABLE)
#define EM_COLUMN_SIZE(lanes) (4 * (lanes))
#else
#define EM_COLUMN_SIZE(lanes) 32
#endif

/* A row of eight or sixteen channels for windows of 3x3 without dilation; `right` is the stride, 1 or 2. A column that
 * two windows see is gathered once. */
EM_INLINE void em_depthwise_three(const em_layer *layer, const em_value *const *rows, const int right, const int first,
                                  const int lanes, em_value *out) {
    const em_value *const seen[3] = {rows[0] + first, rows[1] + first, rows[2] + first};
    const int step = layer->channels, width = layer->width, zero_point = layer->zero_point;
    const int column = EM_COLUMN_SIZE(lanes);
    const em_weight *weight = layer->weight + 4 * first * 3;
    const em_column_weights w0 = em_load_weights(weight, 3, lanes), w1 = em_load_weights(weight + column, 3, lanes);
    const em_column_weights w2 = em_load_weights(weight + 2 * column, 3, lanes);
    const em_multiplier *multiplier = layer->multiplier + first;
    const em_sum bias = em_bias(layer->bias + first, lanes);
    em_column a = em_gather(seen, 3, 0, lanes), b = em_gather(seen, 3, step, lanes);
    int x, at = 2 * step;
    out += first;
    for (x = 0; x < width; ++x, out += step) {
        const em_column c = em_gather(seen, 3, at, lanes);
        em_sum sum = em_taps(bias, a, w0, 3, lanes);
        sum = em_taps(sum, b, w1, 3, lanes);
        em_store(em_taps(sum, c, w2, 3, lanes), multiplier, zero_point, lanes, out);
        a = right == 1 ? b : c;
        b = right == 1 ? c : em_gather(seen, 3, x + 1 < width ? at + step : at, lanes);
        at += right * step;
    }
}

/* A row of eight or sixteen channels for any window. */
EM_INLINE void em_depthwise_any(const em_layer *layer, const em_value *const *rows, const int first, const int lanes,
                                em_value *out) {
    const int groups = (layer->rows + 3) / 4, size = groups * layer->columns;
    int x, group, column, row;
    for (x = 0; x < layer->width; ++x) {
        const em_weight *weight = layer->weight + 4 * first * size;
        em_sum sum = em_bias(layer->bias + first, lanes);
        for (group = 0; group < groups; ++group) {
            const int left = layer->rows - 4 * group, count = left < 4 ? left : 4;
            const em_value *seen[4];
            int at = x * layer->right * layer->channels + first;
            for (row = 0; row < count; ++row) seen[row] = rows[(4 * group + row) * layer->row_step];
            for (column = 0; column < layer->columns; ++column) {
                const em_column_weights w = em_load_weights(weight, size, lanes);
                sum = em_taps(sum, em_gather(seen, count, at, lanes), w, count, lanes);
                at += layer->column_step * layer->channels;
                weight += EM_COLUMN_SIZE(lanes);
            }
        }
        em_store(sum, layer->multiplier + first, layer->zero_point, lanes, out + x * layer->channels + first);
    }
}

/* A row of outputs. The last channels come first, as in em_tile. */
static void em_depthwise_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    const int outputs = EM_FILLED(layer->outputs);
    const int three = layer->rows == 3 && layer->columns == 3 && layer->row_step == 1 && layer->column_step == 1;
    int block;
    for (block = (outputs - 1) / EM_BLOCK; block >= 0; --block) {
        const int first = EM_BLOCK * block, lanes = outputs - first < EM_BLOCK ? outputs - first : EM_BLOCK;
#define EM_DEPTHWISE_ROW(lanes) \
    do { \
        if (three && layer->right == 1) em_depthwise_three(layer, rows, 1, first, lanes, out); \
        else if (three && layer->right == 2) em_depthwise_three(layer, rows, 2, first, lanes, out); \
        else em_depthwise_any(layer, rows, first, lanes, out); \
    } while (0)
        if (lanes == EM_BLOCK) {
            EM_DEPTHWISE_ROW(EM_BLOCK);
        } else {
#if defined(EM_VNNI_512)
            EM_DEPTHWISE_ROW(8);
#else
            EM_DEPTHWISE_ROW(lanes);
#endif
        }
#undef EM_DEPTHWISE_ROW
    }
}
