/* Preloaded: malloc and its kin of glibc, of which those of large blocks are counted, measured, and fail on request.
 *
 * NumPy crashes, or raises a SystemError, where its own buffers cannot be had (np.tri, fancy indexing; NumPy 2.4), so
 * what it asks malloc for is granted. Its arrays are not: they come from `lstmx_test_arrays`, a PyDataMem_Handler.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static size_t large = (size_t)-1;   /* bytes from which a block counts */
static long left = -1;              /* large blocks until one is refused; below 0: none will be */
static int onwards;                 /* whether those after it are refused too */
static long refused, held;          /* how many were; bytes of the large ones that are not freed */
static size_t largest;              /* that was asked for */

#define LOAD(name) __atomic_load_n(&name, __ATOMIC_RELAXED)
#define STORE(name, value) __atomic_store_n(&name, value, __ATOMIC_RELAXED)
#define ADD(name, value) __atomic_add_fetch(&name, value, __ATOMIC_RELAXED)

/* Called by Python through ctypes. */
void lstmx_test_watch(size_t bytes) { STORE(large, bytes); STORE(largest, 0); }
void lstmx_test_refuse(long after, int all) { STORE(onwards, all); STORE(left, after); }
long lstmx_test_refused(void) { return LOAD(refused); }
long lstmx_test_held(void) { return LOAD(held); }
size_t lstmx_test_largest(void) { return LOAD(largest); }

static int numpy(const void *caller) {
    Dl_info found;
    return dladdr(caller, &found) && found.dli_fname && strstr(found.dli_fname, "_umath");
}

/* `caller`: an address in the code that asks; NULL: for an array. */
static int granted(size_t bytes, const void *caller) {
    if (bytes < LOAD(large)) return 1;
    if (bytes > LOAD(largest)) STORE(largest, bytes);
    if (LOAD(left) < 0 || (caller && numpy(caller))) return 1;
    const long now = ADD(left, -1);
    if (now >= 0) return 1;
    if (now == -1 && LOAD(onwards)) STORE(left, 0);
    ADD(refused, 1);
    errno = ENOMEM;
    return 0;
}

static void *counted(void *block) {
    const size_t bytes = block ? malloc_usable_size(block) : 0;
    if (bytes >= LOAD(large)) ADD(held, (long)bytes);
    return block;
}

static void uncounted(void *block) {
    const size_t bytes = block ? malloc_usable_size(block) : 0;
    if (bytes >= LOAD(large)) ADD(held, -(long)bytes);
}

static void *take(size_t bytes, const void *caller) {
    return granted(bytes, caller) ? counted(__libc_malloc(bytes)) : NULL;
}

static void *take_zeros(size_t count, size_t size, const void *caller) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) bytes = (size_t)-1;
    return granted(bytes, caller) ? counted(__libc_calloc(count, size)) : NULL;
}

static void *resize(void *block, size_t bytes, const void *caller) {
    if (!granted(bytes, caller)) return NULL;
    uncounted(block);
    void *found = __libc_realloc(block, bytes);
    counted(found || !bytes ? found : block);
    return found;
}

static void *take_aligned(size_t alignment, size_t bytes, const void *caller) {
    return granted(bytes, caller) ? counted(__libc_memalign(alignment, bytes)) : NULL;
}

#define CALLER __builtin_return_address(0)
void *malloc(size_t bytes) { return take(bytes, CALLER); }
void *calloc(size_t count, size_t size) { return take_zeros(count, size, CALLER); }
void *realloc(void *block, size_t bytes) { return resize(block, bytes, CALLER); }
void *memalign(size_t alignment, size_t bytes) { return take_aligned(alignment, bytes, CALLER); }
void *aligned_alloc(size_t alignment, size_t bytes) { return take_aligned(alignment, bytes, CALLER); }
int posix_memalign(void **block, size_t alignment, size_t bytes) {
    void *found = take_aligned(alignment, bytes, CALLER);
    if (found) *block = found;
    return found ? 0 : ENOMEM;
}

void free(void *block) {
    uncounted(block);
    __libc_free(block);
}

/* NumPy's arrays. */
static void *array_malloc(void *context, size_t bytes) { return (void)context, take(bytes, NULL); }
static void *array_calloc(void *context, size_t n, size_t size) { return (void)context, take_zeros(n, size, NULL); }
static void *array_realloc(void *context, void *p, size_t bytes) { return (void)context, resize(p, bytes, NULL); }
static void array_free(void *context, void *p, size_t bytes) { (void)context, (void)bytes, free(p); }

struct {   /* PyDataMem_Handler of NumPy's C API */
    char name[127];
    unsigned char version;
    void *context, *malloc, *calloc, *realloc, *free;
} lstmx_test_arrays = {"lstmx_test", 1, NULL, array_malloc, array_calloc, array_realloc, array_free};
