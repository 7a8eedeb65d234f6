/* The table of kernels for one REAL; included by core.h once for float and once for double. */
typedef struct {
    /* y[0:n] := function(x[0:n]); x and y may be the same. */
    void (*sigmoid)(ptrdiff_t n, const REAL *x, REAL *y);
    void (*tanh)(ptrdiff_t n, const REAL *x, REAL *y);
    void (*exp)(ptrdiff_t n, const REAL *x, REAL *y);

    /* y (rows, n) := activation(y + bias); bias (n) or NULL. */
    void (*activate)(int activation, ptrdiff_t rows, ptrdiff_t n, const REAL *bias, REAL *y);
    /* dy (rows, n) := dy * activation'(.), from the activated y. */
    void (*activate_backward)(int activation, ptrdiff_t rows, ptrdiff_t n, const REAL *y, REAL *dy);

    /* out (n) := the sum of x (rows, n) over its rows, in blocks of 256 rows. */
    void (*column_sum)(ptrdiff_t rows, ptrdiff_t n, const REAL *x, REAL *out);
    /* In float64, over fixed blocks of 4,096 elements. */
    double (*sum)(ptrdiff_t n, const REAL *x);
    double (*sum_of_squares)(ptrdiff_t n, const REAL *x);

    /* y[0:n] := x[0:n] * scale where the mask keeps a unit, else 0. */
    void (*dropout)(ptrdiff_t n, lstmx_mask mask, REAL scale, const REAL *x, REAL *y);

    /* Optimisers, one pass: p parameters, g gradients (multiplied by `scale` first), m and v moments. g gets what p was.
     * They return 1 if all of p is finite afterwards, else 0. */
    int (*sgd)(ptrdiff_t n, REAL *p, REAL *g, REAL *m, REAL scale, REAL rate, REAL momentum, int nesterov, REAL decay);
    int (*rmsprop)(ptrdiff_t n, REAL *p, REAL *g, REAL *v, REAL *m, REAL scale, REAL rate, REAL rho, REAL epsilon,
                   REAL momentum, REAL decay);
    int (*adam)(ptrdiff_t n, REAL *p, REAL *g, REAL *m, REAL *v, REAL scale, REAL rate, REAL beta_1, REAL beta_2,
                REAL epsilon, REAL correction_1, REAL correction_2, REAL decay, REAL decoupled_decay);

    /* A loss (enum lstmx_loss) of predictions p (rows, n); returns the sum of the weighted losses in float64.
     * y      (rows, n), and in a categorical loss the sums of its rows in mass (rows); or NULL and labels (rows)
     * weight (rows)
     * value  (rows, n), of labels (rows)   out: the weighted losses
     * gradient (rows, n)                   out: by p, divided by `divisor` */
    double (*loss)(int kind, ptrdiff_t rows, ptrdiff_t n, const REAL *p, const REAL *y, const REAL *mass,
                   const int64_t *labels, const REAL *weight, REAL divisor, REAL *value, REAL *gradient);

    /* How fast this instruction set can multiply and add: chains of v := y[0] v + y[1], `rounds` long, in registers alone.
     * y (2) OUT y[0] their sum. Returns the floating-point operations done. */
    double (*fma_chains)(ptrdiff_t rounds, REAL *y);
} KERNELS;
