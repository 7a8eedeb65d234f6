/* Everything beside the cell that works on rows: activations, dropout, sums, optimisers. Expects vmath.h.
 *
 * Sums have a shape that depends on their length alone: 16 virtual lanes within a block, blocks in order. The plain loops
 * over the 16 lanes leave the compiler no freedom (no contraction, no reassociation), so every instruction set adds alike. */

#define MAP(NAME, FUNCTION)                                                                                              \
    static void FN(NAME)(ptrdiff_t n, const REAL *x, REAL *y) {                                                          \
        const unsigned saved = flush_subnormals();                                                                       \
        ptrdiff_t j = 0;                                                                                                 \
        for (; j + LANES <= n; j += LANES) FN(store)(y + j, FUNCTION(FN(load)(x + j)));                                  \
        const ptrdiff_t tail = n - j;                                                                                    \
        if (tail) STORE_TAIL(y + j, FUNCTION(LOAD_TAIL(x + j)));                                                         \
        restore_control(saved);                                                                                          \
    }
MAP(map_sigmoid, FN(vsigmoid))
MAP(map_tanh, FN(vtanh))
MAP(map_exp, FN(vexp))
#undef MAP

static REAL FN(fold)(const REAL *lane) {   /* the 16 virtual lanes, pairwise */
    REAL a[16];
    memcpy(a, lane, sizeof a);
    for (int width = 8; width; width /= 2)
        for (int l = 0; l < width; l++) a[l] = a[l] + a[l + width];
    return a[0];
}

static void FN(softmax_row)(ptrdiff_t n, REAL *y) {
    REAL top = y[0], lane[16] = {0};
    for (ptrdiff_t j = 1; j < n; j++) top = y[j] > top ? y[j] : top;
    for (ptrdiff_t j = 0; j < n; j++) y[j] = y[j] - top;
    FN(map_exp)(n, y, y);
    for (ptrdiff_t j = 0; j < n; j++) lane[j % 16] += y[j];
    const REAL total = FN(fold)(lane);
    for (ptrdiff_t j = 0; j < n; j++) y[j] = y[j] / total;
}

static void FN(activate)(int activation, ptrdiff_t rows, ptrdiff_t n, const REAL *bias, REAL *y) {
    for (ptrdiff_t r = 0; r < rows; r++, y += n) {
        if (bias)
            for (ptrdiff_t j = 0; j < n; j++) y[j] = y[j] + bias[j];
        switch (activation) {
        case LSTMX_RELU:   /* written so that NaN stays NaN */
            for (ptrdiff_t j = 0; j < n; j++) y[j] = y[j] < 0 ? 0 : y[j];
            break;
        case LSTMX_TANH: FN(map_tanh)(n, y, y); break;
        case LSTMX_SIGMOID: FN(map_sigmoid)(n, y, y); break;
        case LSTMX_SOFTMAX: FN(softmax_row)(n, y); break;
        default: break;
        }
    }
}

static void FN(activate_backward)(int activation, ptrdiff_t rows, ptrdiff_t n, const REAL *y, REAL *dy) {
    for (ptrdiff_t r = 0; r < rows; r++, y += n, dy += n) {
        switch (activation) {
        case LSTMX_RELU:
            for (ptrdiff_t j = 0; j < n; j++) dy[j] = y[j] > 0 ? dy[j] : y[j] * 0;   /* y * 0: a NaN reaches the gradient */
            break;
        case LSTMX_TANH:
            for (ptrdiff_t j = 0; j < n; j++) dy[j] = dy[j] * (1 - y[j] * y[j]);
            break;
        case LSTMX_SIGMOID:
            for (ptrdiff_t j = 0; j < n; j++) dy[j] = dy[j] * (y[j] * (1 - y[j]));
            break;
        case LSTMX_SOFTMAX: {
            REAL lane[16] = {0};
            for (ptrdiff_t j = 0; j < n; j++) lane[j % 16] += y[j] * dy[j];
            const REAL inner = FN(fold)(lane);
            for (ptrdiff_t j = 0; j < n; j++) dy[j] = y[j] * (dy[j] - inner);
            break;
        }
        default: break;
        }
    }
}

static void FN(column_sum)(ptrdiff_t rows, ptrdiff_t n, const REAL *x, REAL *out) {
    enum { BLOCK = 256, STRIP = 64 };   /* a strip of columns stays in registers and L1 while the rows go by */
    for (ptrdiff_t j0 = 0; j0 < n; j0 += STRIP) {
        const ptrdiff_t width = n - j0 < STRIP ? n - j0 : STRIP;
        REAL total[STRIP] = {0};
        for (ptrdiff_t r0 = 0; r0 < rows; r0 += BLOCK) {
            const ptrdiff_t end = rows - r0 < BLOCK ? rows : r0 + BLOCK;
            REAL part[STRIP] = {0};
            for (ptrdiff_t r = r0; r < end; r++)
                for (ptrdiff_t j = 0; j < width; j++) part[j] = part[j] + x[r * n + j0 + j];
            for (ptrdiff_t j = 0; j < width; j++) total[j] = total[j] + part[j];
        }
        memcpy(out + j0, total, (size_t)width * sizeof(REAL));
    }
}

#define BLOCK_SUM(NAME, TERM)                                                                                            \
    static double FN(NAME)(ptrdiff_t n, const REAL *x) {                                                                 \
        double total = 0;                                                                                                \
        for (ptrdiff_t start = 0; start < n; start += 4096) {                                                            \
            const ptrdiff_t end = n - start < 4096 ? n : start + 4096;                                                   \
            double lane[16] = {0};                                                                                       \
            ptrdiff_t j = start;                                                                                         \
            for (; j + 16 <= end; j += 16)                                                                               \
                for (int l = 0; l < 16; l++) { const double v = x[j + l]; lane[l] = lane[l] + TERM; }                    \
            for (int l = 0; j + l < end; l++) { const double v = x[j + l]; lane[l] = lane[l] + TERM; }                   \
            for (int width = 8; width; width /= 2)                                                                       \
                for (int l = 0; l < width; l++) lane[l] = lane[l] + lane[l + width];                                     \
            total = total + lane[0];                                                                                     \
        }                                                                                                                \
        return total;                                                                                                    \
    }
BLOCK_SUM(block_sum, v)
BLOCK_SUM(block_sum_of_squares, v * v)
#undef BLOCK_SUM

/* Independent chains that never leave the registers, as many as these hold beside the two operands. */
static double FN(fma_chains)(ptrdiff_t rounds, REAL *y) {
    enum { ROWS = REGISTERS >= 32 ? 4 : 2, COLUMNS = 6 };
    const FN(vec) a = FN(splat)(y[0]), b = FN(splat)(y[1]);
    FN(vec) chain[ROWS][COLUMNS], total = FN(splat)(0);
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++) chain[r][c] = FN(splat)((REAL)(r * COLUMNS + c));
    for (ptrdiff_t k = 0; k < rounds; k++)
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int c = 0; c < COLUMNS; c++) chain[r][c] = FN(vfma)(chain[r][c], a, b);
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++) total = total + chain[r][c];
    FN(store_part)(y, total, 1);
    return 2.0 * ROWS * COLUMNS * LANES * (double)rounds;
}

/* Two rounds of a 32-bit finaliser over (stream, unit): a counter-based generator that vectorises. */
static inline uint32_t FN(scramble)(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

static void FN(dropout)(ptrdiff_t n, lstmx_mask mask, REAL scale, const REAL *x, REAL *y) {
    const uint32_t low = (uint32_t)mask.stream, high = (uint32_t)(mask.stream >> 32);
    for (ptrdiff_t j = 0; j < n; j++) {
        const uint32_t hash = FN(scramble)(FN(scramble)((uint32_t)j * 0x9e3779b9u + low) ^ high);
        y[j] = hash < mask.threshold ? 0 : x[j] * scale;
    }
}

/* Polyak momentum as PyTorch's SGD without dampening: m := momentum m + g;  step along m, or g + momentum m (Nesterov). */
static void FN(sgd)(ptrdiff_t n, REAL *p, const REAL *g, REAL *m, REAL scale, REAL rate, REAL momentum, int nesterov,
                    REAL decay) {
    const unsigned saved = flush_subnormals();
    if (momentum == 0)
        for (ptrdiff_t j = 0; j < n; j++) p[j] = p[j] - rate * (g[j] * scale + decay * p[j]);
    else
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL d = g[j] * scale + decay * p[j];
            m[j] = momentum * m[j] + d;
            p[j] = p[j] - rate * (nesterov ? d + momentum * m[j] : m[j]);
        }
    restore_control(saved);
}

/* v := rho v + (1 - rho) g^2;  step g / (sqrt(v) + epsilon), through a momentum buffer if there is one. */
static void FN(rmsprop)(ptrdiff_t n, REAL *p, const REAL *g, REAL *v, REAL *m, REAL scale, REAL rate, REAL rho, REAL epsilon,
                        REAL momentum, REAL decay) {
    const unsigned saved = flush_subnormals();
    const REAL rest = 1 - rho;
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL d = g[j] * scale + decay * p[j];
        v[j] = rho * v[j] + rest * d * d;
        REAL step = d / (SQRT(v[j]) + epsilon);
        if (momentum != 0) step = m[j] = momentum * m[j] + step;
        p[j] = p[j] - rate * step;
    }
    restore_control(saved);
}

/* Kingma and Ba (2015), with the bias corrections 1 - beta^t given. decay is L2, decoupled_decay that of Loshchilov and
 * Hutter (2019). */
static void FN(adam)(ptrdiff_t n, REAL *p, const REAL *g, REAL *m, REAL *v, REAL scale, REAL rate, REAL beta_1, REAL beta_2,
                     REAL epsilon, REAL correction_1, REAL correction_2, REAL decay, REAL decoupled_decay) {
    const unsigned saved = flush_subnormals();
    const REAL rest_1 = 1 - beta_1, rest_2 = 1 - beta_2;
    const REAL keep = 1 - rate * decoupled_decay, step = rate / correction_1, root = SQRT(correction_2);
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL d = g[j] * scale + decay * p[j];
        m[j] = beta_1 * m[j] + rest_1 * d;
        v[j] = beta_2 * v[j] + rest_2 * d * d;
        p[j] = p[j] * keep - step * (m[j] / (SQRT(v[j]) / root + epsilon));
    }
    restore_control(saved);
}
