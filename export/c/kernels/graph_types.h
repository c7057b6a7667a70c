enum { EM_DEPTHWISE = EM_POOL + 1, EM_ADD, EM_MULTIPLY, EM_TABLE, EM_CONCATENATE, EM_UPSAMPLE };

/* A ring of lines, the rows of a value that its readers still need; all counts are of values of the arena. */
typedef struct {
    int32_t at;          /* where it starts in the arena */
    int32_t line;        /* from line to line */
    int32_t slots;       /* lines; after the last one follows a line of padding if `below` */
    int32_t height;      /* of the map */
    int32_t width;       /* of the map, times channels */
    int32_t left, right; /* padding on each side, times channels */
    int32_t below;       /* whether rows above and below the map are looked at */
    int32_t zero;        /* u of the padding */
} em_ring;

typedef struct {
    int32_t kind;
    int32_t rows, columns;         /* of the window, or the factors of EM_UPSAMPLE */
    int32_t down, right;           /* its stride */
    int32_t row_step, column_step; /* its dilation */
    int32_t above, before;         /* padding above and to the left */
    int32_t extent;                /* rows of the input from which a row of the output is computed */
    int32_t height, width;         /* of the output, after the pool of EM_CONV_POOL */
    int32_t channels, outputs;     /* input and output channels of a position */
    int32_t zero_point;            /* of the output, plus 128 */
    int32_t split;                 /* channel groups of EM_GROUPED */
    const em_weight *weight;       /* [outputs / 8][run][group][8 outputs][4 taps]; EM_GROUPED: [output][row][column][input] */
    const int32_t *bias;
    const em_multiplier *multiplier;
    const uint8_t *chain;   /* lengths, in groups, of what is added in 16 bits; 0: one group, in 32 bits at once */
    const int32_t *factors; /* EM_ADD: of both inputs, the constant and the shift; EM_MULTIPLY: both zero points plus 128 */
    const uint8_t *table;   /* u of the output for each u of the input */
    const int32_t *sources; /* the values that it takes */
    int32_t count;          /* how many they are */
    int32_t at_once;        /* rows of the output that are computed at a time, 1 or 2 */
    int32_t like;           /* the first convolution of the same sizes, whose code is used; -1: code for any sizes */
    int32_t reader;         /* the last layer that takes its output, or the layer itself for the last output */
} em_layer;
