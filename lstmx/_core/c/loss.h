/* Losses on rows of predictions; lstmx/losses.py says which. Expects rows.h.
 *
 * value (rows, n)     the loss of every element times weight / outputs; of labels (rows, 1)
 * gradient (rows, n)  its derivative by the prediction, divided by `divisor`
 * The operations are those of the formulas, each rounded once, so that all instruction sets agree. */

/* log(1 + u) for 0 <= u <= 1, by 2 artanh(u / (2 + u)): a series of positive terms, whose 17th is below 2^-55. */
INLINE double FN(log1p_unit)(double u) {
    const double s = u / (2 + u), s2 = s * s;
    double series = 0;
    for (int k = 16; k >= 1; k--) series = (series + 1.0 / (2 * k + 1)) * s2;
    return 2 * s + 2 * s * series;
}

/* log(x) for x >= 1; anything else (NaN) is given back. */
static double FN(log_above_one)(double x) {
    if (!(x >= 1 && x < INFINITY)) return x;
    int exponent;
    const double m = 2 * frexp(x, &exponent);   /* 1 <= m < 2 */
    return (exponent - 1) * 0.69314718055994530942 + FN(log1p_unit)(m - 1);
}

static void FN(loss_of_difference)(int kind, ptrdiff_t rows, ptrdiff_t n, const REAL *restrict p, const REAL *restrict y,
                                   const REAL *restrict weight, REAL divisor, REAL *restrict value,
                                   REAL *restrict gradient) {
    for (ptrdiff_t r = 0; r < rows; r++, p += n, y += n, value += n, gradient += n) {
        const REAL scale = weight[r] / (REAL)n;
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL d = p[j] - y[j], size = d < 0 ? -d : d;
            REAL v, g;
            if (kind == LSTMX_MSE) {
                v = d * d;
                g = 2 * d;
            } else if (kind == LSTMX_MAE) {
                v = size;
                g = d > 0 ? 1 : d < 0 ? -1 : d == d ? 0 : d;   /* NaN stays NaN */
            } else {
                v = size <= 1 ? d * d / 2 : size - (REAL)0.5;
                g = d < -1 ? -1 : d > 1 ? 1 : d;
            }
            value[j] = v * scale;
            gradient[j] = g * scale / divisor;
        }
    }
}

static void FN(binary_loss)(ptrdiff_t rows, ptrdiff_t n, const REAL *restrict z, const REAL *restrict y,
                            const REAL *restrict weight, REAL divisor, REAL *restrict value, REAL *restrict gradient) {
    for (ptrdiff_t j = 0; j < rows * n; j++) value[j] = z[j] < 0 ? z[j] : -z[j];
    FN(exp)(rows * n, value, value);
    FN(sigmoid)(rows * n, z, gradient);
    for (ptrdiff_t r = 0; r < rows; r++, z += n, y += n, value += n, gradient += n) {
        const REAL scale = weight[r] / (REAL)n;
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL top = z[j] < 0 ? 0 : z[j];
            value[j] = (top - z[j] * y[j] + (REAL)FN(log1p_unit)(value[j])) * scale;
            gradient[j] = (gradient[j] - y[j]) * scale / divisor;
        }
    }
}

/* Labels (rows), or y (rows, n) with the sum of each of its rows in mass. */
static void FN(categorical_loss)(ptrdiff_t rows, ptrdiff_t n, const REAL *restrict z, const REAL *restrict y,
                                 const REAL *restrict mass, const int64_t *restrict labels, const REAL *restrict weight,
                                 REAL divisor, REAL *restrict value, REAL *restrict gradient) {
    FN(shifted_exp)(rows, n, z, gradient);
    for (ptrdiff_t r = 0; r < rows; r++, z += n, gradient += n) {
        const REAL scale = weight[r], total = FN(row_sum)(n, gradient, NULL);
        const REAL log_sum = (REAL)FN(log_above_one)(total) + FN(row_top)(n, z);
        for (ptrdiff_t j = 0; j < n; j++) gradient[j] = gradient[j] / total;
        if (labels) {
            gradient[labels[r]] = gradient[labels[r]] - 1;
            value[r] = (log_sum - z[labels[r]]) * scale;
            for (ptrdiff_t j = 0; j < n; j++) gradient[j] = gradient[j] * scale / divisor;
        } else {
            for (ptrdiff_t j = 0; j < n; j++) {
                value[j] = (log_sum - z[j]) * y[j] * scale;
                gradient[j] = (gradient[j] * mass[r] - y[j]) * scale / divisor;
            }
            y += n;
            value += n;
        }
    }
}

static double FN(loss)(int kind, ptrdiff_t rows, ptrdiff_t n, const void *p, const void *y, const void *mass,
                       const int64_t *labels, const void *weight, double divisor_, void *value, void *gradient) {
    const REAL divisor = (REAL)divisor_;
    switch (kind) {   /* a constant for each, so that the compiler makes three loops */
    case LSTMX_MSE: FN(loss_of_difference)(LSTMX_MSE, rows, n, p, y, weight, divisor, value, gradient); break;
    case LSTMX_MAE: FN(loss_of_difference)(LSTMX_MAE, rows, n, p, y, weight, divisor, value, gradient); break;
    case LSTMX_HUBER: FN(loss_of_difference)(LSTMX_HUBER, rows, n, p, y, weight, divisor, value, gradient); break;
    case LSTMX_BINARY: FN(binary_loss)(rows, n, p, y, weight, divisor, value, gradient); break;
    default: FN(categorical_loss)(rows, n, p, y, mass, labels, weight, divisor, value, gradient);
    }
    return FN(sum)(labels ? rows : rows * n, value);
}
