"""The products of the `blas` engine, by the BLAS that SciPy carries.

The only module that needs SciPy; it is imported on first use. BLAS is column-major and ours is row-major, so the operands
change places: C = A B is C^T = B^T A^T.
"""

from cpython.pycapsule cimport PyCapsule_New

from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

from lstmx._core.core cimport lstmx_products, real

include "blas_int.pxi"   # the integer of scipy.linalg.cython_blas, as setup.py found it

LARGEST = 2**(8 * sizeof(blas_int) - 1) - 1   # lstmx.functional refuses sizes beyond it

cdef lstmx_products products


cdef inline void product(int transpose_a, int transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real *a,
                         Py_ssize_t lda, const real *b, Py_ssize_t ldb, real beta, real *c, Py_ssize_t ldc) noexcept nogil:
    """C (m, n) := op(A) (m, k) op(B) (k, n) + beta C, row-major."""
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef blas_int bm = <blas_int>m, bn = <blas_int>n, bk = <blas_int>k
    cdef blas_int la = <blas_int>lda, lb = <blas_int>ldb, lc = <blas_int>ldc
    cdef blas_int one = 1
    cdef real alpha = 1
    cdef Py_ssize_t row, column
    if m == 0 or n == 0:
        return
    if k == 0:   # never shown to BLAS: some give garbage
        for row in range(m):
            for column in range(n):
                c[row * ldc + column] = c[row * ldc + column] * beta if beta != 0 else 0
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


cdef void product_f32(int ta, int tb, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float *a, Py_ssize_t lda,
                      const float *b, Py_ssize_t ldb, float beta, float *c, Py_ssize_t ldc) noexcept nogil:
    product(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc)


cdef void product_f64(int ta, int tb, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const double *a, Py_ssize_t lda,
                      const double *b, Py_ssize_t ldb, double beta, double *c, Py_ssize_t ldc) noexcept nogil:
    product(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc)


products.f32 = product_f32
products.f64 = product_f64


def product_table():
    """A capsule with the `lstmx_products` of this engine."""
    return PyCapsule_New(&products, "lstmx.products", NULL)
