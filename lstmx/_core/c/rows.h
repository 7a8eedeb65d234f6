/* Everything beside the cell that works on rows: activations, dropout, sums, optimisers. Expects vmath.h.
 *
 * kernels.h says what each kernel does. An argument x_ is x before it has a type: void for data, double for scalars.
 *
 * The order in which a sum is added up depends on its length alone: 16 virtual lanes within a block, then block after block.
 * The plain loops over the 16 lanes leave the compiler no freedom (no contraction, no reassociation), so that every
 * instruction set gives the same bits. */

#define MAP(NAME, FUNCTION)                                                                                              \
    static void FN(NAME)(ptrdiff_t n, const void *x_, void *y_) {                                                        \
        const REAL *x = x_; REAL *y = y_;                                                                                \
        const unsigned saved = flush_subnormals();                                                                       \
        ptrdiff_t j = 0;                                                                                                 \
        for (; j + LANES <= n; j += LANES) FN(store)(y + j, FUNCTION(FN(load)(x + j)));                                  \
        const ptrdiff_t tail = n - j;                                                                                    \
        if (tail) STORE_TAIL(y + j, FUNCTION(LOAD_TAIL(x + j)));                                                         \
        restore_control(saved);                                                                                          \
    }
MAP(sigmoid, FN(sigmoid_of))
MAP(tanh, FN(tanh_of))
MAP(exp, FN(vexp))
MAP(expm1, FN(vexpm1))
MAP(softplus, FN(softplus_of))
#undef MAP

static REAL FN(fold)(const REAL *lane) {   /* the 16 virtual lanes, pairwise */
    REAL a[16];
    memcpy(a, lane, sizeof a);
    for (int width = 8; width; width /= 2)
        for (int l = 0; l < width; l++) a[l] = a[l] + a[l + width];
    return a[0];
}

static REAL FN(row_sum)(ptrdiff_t n, const REAL *a, const REAL *b) {   /* of a[j], or of a[j] * b[j] */
    REAL lane[16] = {0};
    ptrdiff_t j = 0;
    if (b) {
        for (; j + 16 <= n; j += 16)
            for (int l = 0; l < 16; l++) lane[l] = lane[l] + a[j + l] * b[j + l];
        for (int l = 0; j + l < n; l++) lane[l] = lane[l] + a[j + l] * b[j + l];
    } else {
        for (; j + 16 <= n; j += 16)
            for (int l = 0; l < 16; l++) lane[l] = lane[l] + a[j + l];
        for (int l = 0; j + l < n; l++) lane[l] = lane[l] + a[j + l];
    }
    return FN(fold)(lane);
}

static REAL FN(row_top)(ptrdiff_t n, const REAL *x) {
    REAL top = x[0];
    for (ptrdiff_t j = 1; j < n; j++) top = x[j] > top ? x[j] : top;
    return top;
}

/* y := exp(x - the largest of its row); x and y may be the same. One call of exp for all rows: a row may be short. */
static void FN(shifted_exp)(ptrdiff_t rows, ptrdiff_t n, const REAL *x, REAL *y) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        const REAL top = FN(row_top)(n, x + r * n);
        for (ptrdiff_t j = r * n; j < (r + 1) * n; j++) y[j] = x[j] - top;
    }
    FN(exp)(rows * n, y, y);
}

static void FN(softmax)(ptrdiff_t rows, ptrdiff_t n, REAL *y) {
    const ptrdiff_t block = n < 2048 ? 2048 / n : 1;   /* rows that stay in L1 */
    for (ptrdiff_t r0 = 0; r0 < rows; r0 += block) {
        const ptrdiff_t count = rows - r0 < block ? rows - r0 : block;
        FN(shifted_exp)(count, n, y, y);
        for (ptrdiff_t r = 0; r < count; r++, y += n) {
            const REAL total = FN(row_sum)(n, y, NULL);
            for (ptrdiff_t j = 0; j < n; j++) y[j] = y[j] / total;
        }
    }
}

static void FN(activate)(int activation, ptrdiff_t rows, ptrdiff_t n, const void *bias_, void *y_) {
    const REAL *bias = bias_; REAL *y = y_;
    const ptrdiff_t all = rows * n;
    if (bias && n == 1) {
        const REAL b = bias[0];
        for (ptrdiff_t j = 0; j < all; j++) y[j] = y[j] + b;
    } else if (bias)
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t j = 0; j < n; j++) y[r * n + j] = y[r * n + j] + bias[j];
    switch (activation) {
    case LSTMX_RELU:   /* written so that NaN stays NaN */
        for (ptrdiff_t j = 0; j < all; j++) y[j] = y[j] < 0 ? 0 : y[j];
        break;
    case LSTMX_TANH: FN(tanh)(all, y, y); break;
    case LSTMX_SIGMOID: FN(sigmoid)(all, y, y); break;
    case LSTMX_SOFTMAX: FN(softmax)(rows, n, y); break;
    default: break;
    }
}

static void FN(activate_backward)(int activation, ptrdiff_t rows, ptrdiff_t n, const void *y_, void *dy_) {
    const REAL *y = y_; REAL *dy = dy_;
    const ptrdiff_t all = rows * n;
    switch (activation) {
    case LSTMX_RELU:
        for (ptrdiff_t j = 0; j < all; j++) dy[j] = y[j] > 0 ? dy[j] : y[j] * 0;   /* y * 0: a NaN reaches the gradient */
        break;
    case LSTMX_TANH:
        for (ptrdiff_t j = 0; j < all; j++) dy[j] = dy[j] * (1 - y[j] * y[j]);
        break;
    case LSTMX_SIGMOID:
        for (ptrdiff_t j = 0; j < all; j++) dy[j] = dy[j] * (y[j] * (1 - y[j]));
        break;
    case LSTMX_SOFTMAX:
        for (ptrdiff_t r = 0; r < rows; r++, y += n, dy += n) {
            const REAL inner = FN(row_sum)(n, y, dy);
            for (ptrdiff_t j = 0; j < n; j++) dy[j] = y[j] * (dy[j] - inner);
        }
        break;
    default: break;
    }
}

static void FN(column_sum)(ptrdiff_t rows, ptrdiff_t n, const void *x_, void *out_) {
    const REAL *x = x_; REAL *out = out_;
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
    static double FN(NAME)(ptrdiff_t n, const void *x_) {                                                                \
        const REAL *x = x_;                                                                                              \
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
BLOCK_SUM(sum, v)
BLOCK_SUM(sum_of_squares, v * v)
#undef BLOCK_SUM

/* Independent chains that never leave the registers, as many as these hold beside the two operands. */
static double FN(fma_chains)(ptrdiff_t rounds, void *y_) {
    enum { ROWS = REGISTERS >= 32 ? 4 : 2, COLUMNS = 6 };
    REAL *y = y_;
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

static void FN(dropout)(ptrdiff_t n, lstmx_mask mask, double scale_, const void *x_, void *y_) {
    const REAL *x = x_, scale = (REAL)scale_;
    REAL *y = y_;
    const uint32_t low = (uint32_t)mask.stream, high = (uint32_t)(mask.stream >> 32);
    for (ptrdiff_t j = 0; j < n; j++) {
        const uint32_t hash = FN(scramble)(FN(scramble)((uint32_t)j * 0x9e3779b9u + low) ^ high);
        y[j] = hash < mask.threshold ? 0 : x[j] * scale;
    }
}

/* The optimisers. Whether all of p is finite: p - p is 0, or NaN for NaN and infinities. */

/* Polyak momentum as PyTorch's SGD without dampening: m := momentum m + g;  step along m, or g + momentum m (Nesterov). */
static int FN(sgd)(ptrdiff_t n, void *p_, void *g_, void *m_, double scale_, double rate_, double momentum_, int nesterov,
                   double decay_) {
    REAL *p = p_, *g = g_, *m = m_;
    const REAL scale = (REAL)scale_, rate = (REAL)rate_, momentum = (REAL)momentum_, decay = (REAL)decay_;
    const unsigned saved = flush_subnormals();
    INT wrong = 0;
    if (momentum == 0)
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL old = p[j], new = old - rate * (g[j] * scale + decay * old);
            p[j] = new;
            g[j] = old;
            wrong |= new - new != 0;
        }
    else
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL old = p[j], d = g[j] * scale + decay * old, mean = momentum * m[j] + d;
            const REAL new = old - rate * (nesterov ? d + momentum * mean : mean);
            m[j] = mean;
            p[j] = new;
            g[j] = old;
            wrong |= new - new != 0;
        }
    restore_control(saved);
    return !wrong;
}

/* v := rho v + (1 - rho) g^2;  step g / (sqrt(v) + epsilon), through a momentum buffer if there is one. */
static int FN(rmsprop)(ptrdiff_t n, void *p_, void *g_, void *v_, void *m_, double scale_, double rate_, double rho_,
                       double epsilon_, double momentum_, double decay_) {
    REAL *p = p_, *g = g_, *v = v_, *m = m_;
    const REAL scale = (REAL)scale_, rate = (REAL)rate_, rho = (REAL)rho_, epsilon = (REAL)epsilon_;
    const REAL momentum = (REAL)momentum_, decay = (REAL)decay_;
    const unsigned saved = flush_subnormals();
    const REAL rest = 1 - rho;
    INT wrong = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL old = p[j], d = g[j] * scale + decay * old, square = rho * v[j] + rest * d * d;
        REAL step = d / (SQRT(square) + epsilon);
        if (momentum != 0) step = m[j] = momentum * m[j] + step;
        const REAL new = old - rate * step;
        v[j] = square;
        p[j] = new;
        g[j] = old;
        wrong |= new - new != 0;
    }
    restore_control(saved);
    return !wrong;
}

/* Kingma and Ba (2015), with the bias corrections 1 - beta^t given. decay is L2, decoupled_decay that of Loshchilov and
 * Hutter (2019). */
static int FN(adam)(ptrdiff_t n, void *p_, void *g_, void *m_, void *v_, double scale_, double rate_, double beta_1_,
                    double beta_2_, double epsilon_, double correction_1_, double correction_2_, double decay_,
                    double decoupled_decay_) {
    REAL *p = p_, *g = g_, *m = m_, *v = v_;
    const REAL scale = (REAL)scale_, rate = (REAL)rate_, beta_1 = (REAL)beta_1_, beta_2 = (REAL)beta_2_;
    const REAL epsilon = (REAL)epsilon_, correction_1 = (REAL)correction_1_, correction_2 = (REAL)correction_2_;
    const REAL decay = (REAL)decay_, decoupled_decay = (REAL)decoupled_decay_;
    const unsigned saved = flush_subnormals();
    const REAL rest_1 = 1 - beta_1, rest_2 = 1 - beta_2;
    const REAL keep = 1 - rate * decoupled_decay, step = rate / correction_1, root = SQRT(correction_2);
    INT wrong = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL old = p[j], d = g[j] * scale + decay * old;
        const REAL mean = beta_1 * m[j] + rest_1 * d, square = beta_2 * v[j] + rest_2 * d * d;
        const REAL new = old * keep - step * (mean / (SQRT(square) / root + epsilon));
        m[j] = mean;
        v[j] = square;
        p[j] = new;
        g[j] = old;
        wrong |= new - new != 0;
    }
    restore_control(saved);
    return !wrong;
}
