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
