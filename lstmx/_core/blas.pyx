"""The products of the `blas` engine, by the BLAS that SciPy carries.

The only module that needs SciPy; it is imported on first use. BLAS is column-major and ours is row-major, so the operands
change places: C = A B is C^T = B^T A^T.
"""

from cpython.pycapsule cimport PyCapsule_New

from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

from lstmx._core.core cimport lstmx_matrix, lstmx_products, real

include "blas_int.pxi"   # the integer of scipy.linalg.cython_blas, as setup.py found it

LARGEST = 2**(8 * sizeof(blas_int) - 1) - 1   # lstmx.functional refuses sizes beyond it

cdef lstmx_products products[2]   # for float and double


cdef inline void multiply(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real *a,
                          Py_ssize_t lda, const real *b, Py_ssize_t ldb, bint add, real *c, Py_ssize_t ldc) noexcept nogil:
    """C (m, n) := op(A) (m, k) op(B) (k, n) [+ C], row-major."""
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef blas_int bm = <blas_int>m, bn = <blas_int>n, bk = <blas_int>k
    cdef blas_int la = <blas_int>lda, lb = <blas_int>ldb, lc = <blas_int>ldc
    cdef blas_int one = 1
    cdef real alpha = 1, beta = add
    if m == 0 or n == 0:   # k is never 0: an LSTM and a Dense have inputs, and the caller has rows
        return
    if m == 1 and not transpose_a:   # one sequence, one step: gemm would repack the whole of B for one row
        op_b = c"T" if transpose_b else c"N"
        bm, bn = (bk, bn) if transpose_b else (bn, bk)
        if real is float:
            sgemv(&op_b, &bm, &bn, &alpha, <float *>b, &lb, <float *>a, &one, &beta, c, &one)
        else:
            dgemv(&op_b, &bm, &bn, &alpha, <double *>b, &lb, <double *>a, &one, &beta, c, &one)
    elif real is float:
        sgemm(&op_b, &op_a, &bn, &bm, &bk, &alpha, <float *>b, &lb, <float *>a, &la, &beta, c, &lc)
    else:
        dgemm(&op_b, &op_a, &bn, &bm, &bk, &alpha, <double *>b, &lb, <double *>a, &la, &beta, c, &lc)


cdef void product_f32(Py_ssize_t rows, Py_ssize_t n, Py_ssize_t K, const void *a, Py_ssize_t a_row, const void *b, void *out,
                      Py_ssize_t out_row, int add, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef const lstmx_matrix *B = <const lstmx_matrix *>b
    multiply(False, B.transposed, rows, n, K, <const float *>a, a_row, <const float *>B.data, B.row, add, <float *>out, out_row)


cdef void product_f64(Py_ssize_t rows, Py_ssize_t n, Py_ssize_t K, const void *a, Py_ssize_t a_row, const void *b, void *out,
                      Py_ssize_t out_row, int add, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef const lstmx_matrix *B = <const lstmx_matrix *>b
    multiply(False, B.transposed, rows, n, K, <const double *>a, a_row, <const double *>B.data, B.row, add, <double *>out,
             out_row)


cdef void outer_f32(Py_ssize_t rows, Py_ssize_t m0, Py_ssize_t m1, Py_ssize_t n, const void *a, Py_ssize_t a_row,
                    const void *b, Py_ssize_t b_row, void *out, Py_ssize_t out_row, int add, void *strip) noexcept nogil:
    multiply(True, False, m1 - m0, n, rows, <const float *>a + m0, a_row, <const float *>b, b_row, add,
             <float *>out + m0 * out_row, out_row)


cdef void outer_f64(Py_ssize_t rows, Py_ssize_t m0, Py_ssize_t m1, Py_ssize_t n, const void *a, Py_ssize_t a_row,
                    const void *b, Py_ssize_t b_row, void *out, Py_ssize_t out_row, int add, void *strip) noexcept nogil:
    multiply(True, False, m1 - m0, n, rows, <const double *>a + m0, a_row, <const double *>b, b_row, add,
             <double *>out + m0 * out_row, out_row)


products[0].product, products[0].outer = product_f32, outer_f32
products[1].product, products[1].outer = product_f64, outer_f64


def product_table():
    """A capsule with the `lstmx_products` of this engine, for float and double."""
    return PyCapsule_New(products, "lstmx.products", NULL)
