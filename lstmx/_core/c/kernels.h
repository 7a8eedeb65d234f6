/* The kernels on rows, one row of the table each: KERNEL(what it returns, its name, (its arguments)).
 *
 * core.h makes the fields of lstmx_kernels of this file, real.h the entries: the function FN(name) with these arguments.
 * Arrays are of the format of the table; scalars come as double and are rounded to that format first. */

/* y[0:n] := function(x[0:n]); x and y may be the same. */
KERNEL(void, sigmoid, (ptrdiff_t n, const void *x, void *y))
KERNEL(void, tanh, (ptrdiff_t n, const void *x, void *y))
KERNEL(void, exp, (ptrdiff_t n, const void *x, void *y))
KERNEL(void, expm1, (ptrdiff_t n, const void *x, void *y))   /* of x <= 0 */
KERNEL(void, softplus, (ptrdiff_t n, const void *x, void *y))

/* One step of a cell (lstmx_cell) for `rows` sequences, as the general path does it after its products.
 * gates (rows, 4H)  IN the products W_ih x + W_hh h   OUT the activated gates
 * bias  (4H) or NULL
 * c     (rows, H)   IN c_{t-1}   OUT c_t
 * h     (rows, H)   OUT h_t */
KERNEL(void, cell_forward, (const void *cell, ptrdiff_t rows, ptrdiff_t hidden, const void *bias, void *gates, void *c, void *h))

/* Its derivative: cell_row_backward of cell.h says what each array is. */
KERNEL(void, cell_backward, (const void *cell, ptrdiff_t rows, ptrdiff_t hidden, void *gates, const void *c_prev,
                             const void *dy, void *dh, void *dc, void *dh_all, void *dc_all))

/* y (rows, n) := activation(y + bias), enum lstmx_activation; bias (n) or NULL. */
KERNEL(void, activate, (int activation, ptrdiff_t rows, ptrdiff_t n, const void *bias, void *y))
/* dy (rows, n) := dy * activation'(.), from the activated y. */
KERNEL(void, activate_backward, (int activation, ptrdiff_t rows, ptrdiff_t n, const void *y, void *dy))

/* out (n) := the sum of x (rows, n) over its rows, in blocks of 256 rows. */
KERNEL(void, column_sum, (ptrdiff_t rows, ptrdiff_t n, const void *x, void *out))
/* The sums of x[0:n] and of its squares in float64, over fixed blocks of 4,096 elements. */
KERNEL(double, sum, (ptrdiff_t n, const void *x))
KERNEL(double, sum_of_squares, (ptrdiff_t n, const void *x))

/* y[0:n] := x[0:n] * scale where the mask keeps a unit, else 0. */
KERNEL(void, dropout, (ptrdiff_t n, lstmx_mask mask, double scale, const void *x, void *y))

/* One step of an optimiser, in one pass: p (n) parameters, g (n) gradients, multiplied by `scale` first, m and v (n)
 * moments. g gets what p was, so that a step can be taken back. They return 1 if all of p is finite afterwards, else 0.
 * m may be NULL where momentum is 0. */
KERNEL(int, sgd, (ptrdiff_t n, void *p, void *g, void *m, double scale, double rate, double momentum, int nesterov,
                  double decay))
KERNEL(int, rmsprop, (ptrdiff_t n, void *p, void *g, void *v, void *m, double scale, double rate, double rho,
                      double epsilon, double momentum, double decay))
KERNEL(int, adam, (ptrdiff_t n, void *p, void *g, void *m, void *v, double scale, double rate, double beta_1,
                   double beta_2, double epsilon, double correction_1, double correction_2, double decay,
                   double decoupled_decay))

/* A loss (enum lstmx_loss) of predictions p (rows, n); returns the sum of the weighted losses in float64.
 * y      (rows, n), and in a categorical loss the sums of its rows in mass (rows); or NULL and labels (rows)
 * weight (rows)
 * value  (rows, n), of labels (rows)   OUT the weighted losses
 * gradient (rows, n)                   OUT by p, divided by `divisor` */
KERNEL(double, loss, (int kind, ptrdiff_t rows, ptrdiff_t n, const void *p, const void *y, const void *mass,
                      const int64_t *labels, const void *weight, double divisor, void *value, void *gradient))

/* How fast this instruction set can multiply and add: chains of v := y[0] v + y[1], `rounds` long, in registers alone.
 * y (2) OUT y[0] their sum. Returns the floating-point operations done. */
KERNEL(double, fma_chains, (ptrdiff_t rounds, void *y))
