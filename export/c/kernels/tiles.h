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
