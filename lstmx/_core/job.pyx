"""The jobs of the time loop: what a call works on, and how its steps, rows and units are cut: blocks, threads, room.

A `Direction` holds what all calls of a layer share and is never changed; a `Job` is one call, on its stack.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t
from libc.string cimport memset

cimport numpy as cnp

import numpy as np

from lstmx._core.allocate cimport lasting
from lstmx._core.cell cimport lstmx_cell, LSTMX_FASTRNN, LSTMX_HASTE, LSTMX_NO_NORM, set_cell
from lstmx._core.core cimport (lstmx_extra, lstmx_layer, lstmx_products, lstmx_rows, lstmx_second_cache, LSTMX_SHARES, lstmx_shares,
                               lstmx_tile, LSTMX_UNTOUCHED, lstmx_vectors)
from lstmx._core.isa cimport format_of
from lstmx._core.panels cimport Panels

cnp.import_array()

cdef double WORTH_A_THREAD = 6e6          # operations of a call below which it runs serially
cdef double SHARED_TAPE = 4               # times as many where threads share a tape, and read what others have written
cdef double WORTH_A_BARRIER = 1e5         # operations of a step and thread below which the units are not split
cdef size SECOND_CACHE = 1 << 20          # bytes of weights taken to stay in it: the same on every CPU, as results depend on it
cdef size CACHE_HERE = max(SECOND_CACHE, min(lstmx_second_cache(), 2 * SECOND_CACHE))   # and on this one, as far as it is to be believed
cdef double WHILE_A_BYTE_COMES = 5        # from the third cache: operations of a thread
cdef size ROWS_PER_THREAD = 2             # fewer, and the tiles are too flat: the units are split instead
cdef size ROWS_FOR_WEIGHTS = 8            # of a thread; fewer, and units are split if the weights exceed SECOND_CACHE, not CACHE_HERE
cdef size ROWS_PER_SHARE = 10             # of a long call backward; fewer only where there are not enough for a share for each thread
cdef size ROWS_AT_ONCE = 24               # the same in a call that is over before a core can fall behind
cdef double A_MILLISECOND = 2e8           # operations that take a thread more than that
cdef size SHARES_PER_THREAD = 4           # at most
cdef size SUMS = 65536                    # values of z that one block holds, if that is a few steps
cdef size FEW_STEPS = 4
cdef size TURNING = 16                    # multiply-adds of vectors in the time that a value takes to be turned
cdef size CACHE = 8 << 20                 # bytes of weights that are not fetched anew at every step


def set_limits(double worth_a_thread, double worth_a_barrier, size rows_per_thread):
    """Set when threads are used (see the top of this file); returns what it was. For tests and measurements."""
    global WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD
    before = WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD
    WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD = worth_a_thread, worth_a_barrier, rows_per_thread
    return before


def set_block(size sums, size few_steps):
    """Set how much of z a block holds (see the top of this file); returns what it was. For tests and measurements."""
    global SUMS, FEW_STEPS
    before = SUMS, FEW_STEPS
    SUMS, FEW_STEPS = sums, few_steps
    return before


cdef const lstmx_products *products_of(object capsule, int format) except NULL:
    """The products of an engine from its capsule (one lstmx_products for each format); those of the tile for None."""
    if capsule is None:
        return &tile_for(format).products
    return <const lstmx_products *>PyCapsule_GetPointer(capsule, "lstmx.products") + format


cdef size put(size *total, size width) noexcept:
    """The place of so many values behind `total`, which they are added to; -1 for none."""
    cdef size at = total[0]
    total[0] += width
    return at if width else -1


cdef void lay_out(const lstmx_layer *l, lstmx_extra *at, vectors, bint projects, int x_masks, int h_masks, bint training):
    """What a row of `extra` holds; `vectors` is name -> width."""
    cdef size H = l.hidden, P = l.outputs, total = 0
    cdef int norm = l.cell.norm
    cdef bint two_sums = norm == LSTMX_HASTE or norm == LSTMX_FASTRNN
    cdef bint rows = l.cell.general and not l.cell.slstm
    if norm == LSTMX_NO_NORM:   # the gradient of the bias is the sum of dz
        vectors = {"peephole": vectors.get("peephole", 0) * training}
    at.x, at.h = put(&total, x_masks * l.inputs), put(&total, h_masks * P)
    at.dx, at.dh = put(&total, l.inputs * training * (x_masks > 0)), put(&total, P * training * (h_masks > 0))
    at.shown, at.d_shown = put(&total, H * projects), put(&total, H * projects * training)
    at.out = put(&total, P if l.cell.zoneout_h > 0 or training and (projects or l.cell.general) else 0)
    at.vectors = total
    at.bias, at.peephole = put(&total, vectors.get("bias", 0)), put(&total, vectors.get("peephole", 0))
    at.ih_gain, at.ih_bias = put(&total, vectors.get("norm_gain", vectors.get("norm_ih_gain", 0))), put(&total, vectors.get("norm_ih_bias", 0))
    at.hh_gain, at.hh_bias = put(&total, vectors.get("norm_hh_gain", 0)), put(&total, vectors.get("norm_hh_bias", 0))
    at.c_gain, at.c_bias = put(&total, vectors.get("norm_c_gain", 0)), put(&total, vectors.get("norm_c_bias", 0))
    at.vectors_width = total - at.vectors
    at.hh = put(&total, l.width * two_sums)
    at.inverse = put(&total, 5 * (norm != LSTMX_NO_NORM))
    at.width = total
    at.scratch_width = rows * ((5 * H + l.width) if training else 2 * H)


cdef int measure(lstmx_layer *l, lstmx_cell *options, cell, size inputs, size hidden, size outputs) except -1:
    set_cell(options, cell)
    l.cell = options
    l.inputs, l.hidden, l.outputs = inputs, hidden, outputs
    l.memory, l.width = cell.widths(hidden)[1], cell.gates * hidden
    return 0


def extra_widths(cell, size inputs, size hidden, size outputs, vectors, bint projects, masks, bint training):
    """Values that a cell needs beside its gates and states, of each row and of each sequence; `masks` are the numbers of
    those on x and on h."""
    cdef lstmx_layer l
    cdef lstmx_cell options
    cdef lstmx_extra at
    measure(&l, &options, cell, inputs, hidden, outputs)
    lay_out(&l, &at, vectors, projects, masks[0], masks[1], training)
    return at.width, at.scratch_width


cdef int set_side(Side *side, size wide, list panels, int heads, int gates, int masks) except -1:
    cdef int k
    side.wide, side.heads, side.masks = wide, heads, masks
    side.blocks = gates if masks > 1 or heads > 1 else 1
    if not panels:
        return 0
    side.operands = <const void **>PyMem_Malloc(len(panels) * sizeof(void *))
    if side.operands == NULL:
        raise MemoryError
    for k in range(len(panels)):
        side.operands[k] = (<Panels>panels[k]).operand
    return 0


cdef int set_operand(Side *side, const void *panels) except -1:
    """The only operand of a side."""
    side.operands = <const void **>PyMem_Malloc(sizeof(void *))
    if side.operands == NULL:
        raise MemoryError
    side.operands[0] = panels
    return 0


cdef class Direction:
    """One layer in one direction as an engine computes it forward, or backward: sizes, cell, weights. Never changed.

    Parameters
    ----------
    cell : lstmx.functional.cell.Cell
    inputs, hidden, outputs : I, H, and the width of h
    ih, hh : list of Panels
        Fused: gate panels of (4H, I), (4H, H). Else right-hand sides B of the products, for all of W or for each block and
        head: forward (I, width), (P, width), backward (width, I), (width, P). `ih` empty if no dx is wanted.
    hr : Panels or None
        Of the projection: forward (H, P), backward (P, H).
    vectors : dict of str to ndarray
        The cell's vectors by name; fused: "bias", gate panels of (4H, 1).
    masks : (int, int)
        Dropout masks on x and on h: 0, 1, or one for each gate.
    products : capsule of an engine's ``lstmx_products``, or None for the tile's
    fused, backward : bool
    """

    def __cinit__(self):
        memset(&self.job, 0, sizeof(Job))

    def __init__(self, cell, size inputs, size hidden, size outputs, list ih, list hh, Panels hr, dict vectors, masks, products,
                 bint fused, bint backward):
        cdef lstmx_layer *l = &self.job.layer
        cdef lstmx_vectors *v = &self.vectors
        cdef cnp.ndarray first = (<Panels>hh[0]).array
        cdef int format = format_of(first)
        self._keep = ih, hh, hr, vectors, products
        self.job.itemsize = cnp.PyArray_ITEMSIZE(first)
        self.job.kernels, self.job.products = tile_for(format), products_of(products, format)
        self.job.fused, self.job.serial, self.job.backward = fused, products is not None, backward
        measure(l, &self.cell, cell, inputs, hidden, outputs)
        set_side(&self.job.ih, inputs, ih, 1, cell.gates, masks[0])
        set_side(&self.job.hh, outputs, hh, cell.heads, cell.gates, masks[1])
        self.job.w_hr = NULL if hr is None else hr.operand
        self.job.whole_rows = cell.special or hr is not None or any(masks)
        l.at, l.vectors = &self.training if backward else &self.plain, &self.vectors
        widths = {name: len(array) for name, array in vectors.items()}
        lay_out(l, &self.plain, widths, hr is not None, masks[0], masks[1], False)
        lay_out(l, &self.training, widths, hr is not None, masks[0], masks[1], True)
        if fused:
            l.w_ih, l.w_hh = self.job.ih.operands[0], self.job.hh.operands[0]
            l.bias = data(vectors["bias"])
            return
        v.bias, v.peephole = data(vectors.get("bias")), data(vectors.get("peephole"))
        v.ih_gain = data(vectors.get("norm_gain", vectors.get("norm_ih_gain")))
        v.ih_bias = data(vectors.get("norm_ih_bias"))
        v.hh_gain, v.hh_bias = data(vectors.get("norm_hh_gain")), data(vectors.get("norm_hh_bias"))
        v.c_gain, v.c_bias = data(vectors.get("norm_c_gain")), data(vectors.get("norm_c_bias"))

    def __dealloc__(self):
        PyMem_Free(self.job.ih.operands)
        PyMem_Free(self.job.hh.operands)

    @property
    def fused(self):
        """Whether the plain cell's own kernels compute it."""
        return self.job.fused

    cdef Direction bare(self):
        """This one without weights: what `of` begins with, again and again."""
        cdef Direction found = Direction.__new__(Direction)
        cdef lstmx_layer *l = &found.job.layer
        found.job, found.cell, found.vectors, found.plain, found.training = self.job, self.cell, self.vectors, self.plain, self.training
        l.cell, l.vectors, l.at = &found.cell, &found.vectors, &found.training if self.job.backward else &found.plain
        l.w_ih = l.w_hh = l.bias = NULL
        found.job.ih.operands = found.job.hh.operands = NULL
        return found

    cdef Direction of(self, cnp.ndarray ih, cnp.ndarray hh, cnp.ndarray bias, bint need_dx):
        """The same for other weights (4H, I), (4H, H) and (4H,) or None: only of the plain cell on the tile."""
        cdef Direction found = self.bare()
        cdef const lstmx_tile *kernels = self.job.kernels
        cdef size H = self.job.layer.hidden, I = self.job.layer.inputs, line = 64 // self.job.itemsize, width
        cdef char *at
        if self.job.backward:
            width = (4 * H * kernels.column_width(I) + line - 1) // line * line if need_dx else 0
            keep = lasting(width + 4 * H * kernels.column_width(H), ih.dtype)
            at = <char *>data(keep)
            set_operand(&found.job.hh, at + width * self.job.itemsize)
            kernels.pack_columns(0, 4 * H, H, data(hh), at + width * self.job.itemsize)
            if need_dx:
                set_operand(&found.job.ih, at)
                kernels.pack_columns(0, 4 * H, I, data(ih), at)
        else:
            width = (kernels.gate_width(H) + line - 1) // line * line
            keep = lasting(width * (I + H + 1), ih.dtype)
            at = <char *>data(keep)
            found.job.layer.bias, found.job.layer.w_hh = at, at + width * self.job.itemsize
            found.job.layer.w_ih = at + width * (H + 1) * self.job.itemsize
            if bias is None:
                memset(at, 0, width * self.job.itemsize)
            else:
                kernels.pack_gates(H, 1, data(bias), at)
            kernels.pack_gates(H, H, data(hh), at + width * self.job.itemsize)
            kernels.pack_gates(H, I, data(ih), at + width * (H + 1) * self.job.itemsize)
            set_operand(&found.job.ih, found.job.layer.w_ih)
            set_operand(&found.job.hh, found.job.layer.w_hh)
        found._keep = keep
        return found

    cpdef bint takes_cohorts(self):
        """Whether the backward pass of a batch is made cohort by cohort: of the plain cell, where weights stay in a cache."""
        return self.job.fused and weights_stay(self.job.layer.inputs, self.job.layer.hidden, self.job.itemsize)

    cpdef size extra(self, bint training):
        """Values of a row of `extra`: one for each packed row in training, for each sequence else."""
        return self.training.width if training else self.plain.width


cdef void begin(Job *job, const Job *shared, size steps, size batch, bint reverse, const void *x, size x_step,
                size x_row) noexcept nogil:
    """A job for x, by what all calls of a `Direction` share; the caller adds where the state and the results are."""
    cdef lstmx_layer *l = &job.layer
    job[0] = shared[0]
    job.team = &job.own
    job.cohort, job.cohorts = job, 1
    l.steps, l.batch, l.whole_batch, l.reverse = steps, batch, batch, reverse
    l.x, l.x_step, l.x_row = x, x_step, x_row


# How much work there is, and who does it.

cdef size steps_of_rows(const lstmx_layer *l, size rows, size s=0) noexcept nogil:
    """The steps that the first `rows` sequences run, all together, from step s of the direction on."""
    cdef size t, total = 0
    if l.offsets == NULL:
        return rows * (l.steps - s)
    for t in range(0 if l.reverse else s, l.steps - s if l.reverse else l.steps):
        total += min(rows, rows_at(l, t))
    return total


cdef double operations_of(const lstmx_layer *l, size steps) noexcept nogil:
    """Of so many steps, each of one row."""
    return 8.0 * l.hidden * (l.inputs + l.outputs) * steps


cdef double operations(const Job *job) noexcept nogil:
    """Of a forward pass; those for which there is time while the weights come, if that is at every step from the third
    cache.
    """
    cdef const lstmx_layer *l = &job.layer
    cdef double weights = 4.0 * l.hidden * (l.inputs + l.outputs), found = operations_of(l, steps_of_rows(l, l.batch))
    return found if weights * job.itemsize <= SECOND_CACHE else max(found, WHILE_A_BYTE_COMES * weights * job.itemsize * l.steps)


cdef bint worth_threads(double work) noexcept nogil:
    """Whether a call of so many operations may have more than one thread."""
    return work > WORTH_A_THREAD


cdef size row_share(const lstmx_layer *l, int part, int parts) noexcept nogil:
    """The first row of a part, so that all parts run about as many steps."""
    if l.offsets == NULL or part == 0 or part == parts:
        return l.batch * part // parts
    return row_with(l, 0, l.batch, l.offsets[l.steps] * part // parts, 0)


cdef size row_with(const lstmx_layer *l, size low, size high, size wanted, size s) noexcept nogil:
    """The first of the rows low..high before which at least `wanted` steps are run, from step s of the direction on."""
    cdef size middle
    while low < high:
        middle = (low + high) // 2
        if steps_of_rows(l, middle, s) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


cdef size half_of(const Job *job, const lstmx_rows *own) noexcept nogil:
    """The row in the middle of the work that a member has left; 0 where that is too little to share."""
    cdef const lstmx_layer *l = &job.layer
    cdef size before, left
    if own.stop - own.first < 2 * ROWS_PER_THREAD:
        return 0
    before = steps_of_rows(l, own.first, own.step)
    left = steps_of_rows(l, own.stop, own.step) - before
    if operations_of(l, left) < WORTH_A_THREAD / 3:   # less than for a thread that has to be woken
        return 0
    return max(own.first + 1, min(own.stop - 1, row_with(l, own.first, own.stop, before + left // 2, own.step)))


cdef void deal_rows(const Job *job, lstmx_rows *rows) noexcept nogil:
    """The rows that are meant for each member."""
    cdef size first = 0
    cdef int k
    for k in range(job.threads):
        rows[k].state, rows[k].begin = LSTMX_UNTOUCHED, first
        rows[k].end = first = row_share(&job.layer, k + 1, job.threads)


cdef void cut_rows(const Job *job, lstmx_shares *shares) noexcept nogil:
    """Shares of the rows that the members of a team take backward: more than there are members, so that none waits for a slow one."""
    cdef const lstmx_layer *l
    cdef size rows = ROWS_PER_SHARE if operations(job) > A_MILLISECOND else ROWS_AT_ONCE
    cdef int k
    shares.taken = 0
    share_cohorts(job, shares, <int>max(job.threads, min(job.layer.batch // rows, SHARES_PER_THREAD * job.threads)))
    for k in range(shares.count):
        l = &job.cohort[k // shares.each].layer
        shares.first[k] = row_share(l, k % shares.each, shares.each)
        shares.stop[k] = row_share(l, k % shares.each + 1, shares.each)


cdef void cut_columns(const Job *job, lstmx_shares *shares) noexcept nogil:
    """Shares of the weights' gradients, by columns of dz: two for each member."""
    share_cohorts(job, shares, min(<int>(4 * panels_of(job)), 2 * job.threads))


cdef void share_cohorts(const Job *job, lstmx_shares *shares, int wanted) noexcept nogil:
    """At least so many shares, if that is not too many, and as many of each cohort."""
    cdef int k
    shares.each = min((wanted + job.cohorts - 1) // job.cohorts, <int>LSTMX_SHARES // job.cohorts)
    shares.count = shares.each * job.cohorts
    for k in range(shares.count):
        shares.done[k] = 0


cdef void share_out(Job *job, int threads) noexcept nogil:
    """How many threads, and what they split."""
    cdef const lstmx_layer *l = &job.layer
    cdef size units = groups_of(job, l.hidden) if job.backward else panels_of(job)
    cdef double work = operations(job)
    cdef double worth = WORTH_A_THREAD * (SHARED_TAPE if l.gates != NULL and job.cohorts == 1 else 1)
    cdef size stay = CACHE_HERE if l.batch >= ROWS_FOR_WEIGHTS * threads else SECOND_CACHE
    cdef bint wide = job.fused and not job.backward and 4 * l.hidden * (l.inputs + l.hidden) * job.itemsize > stay
    job.split_units = 0
    job.threads = 1
    if threads < 2 or job.serial or work < worth or l.steps == 0:
        return
    threads = min(threads, <int>MOST_THREADS)
    wide = wide and job.cohorts == 1 and l.offsets == NULL and units >= threads and work / l.steps / threads > 10 * WORTH_A_BARRIER
    if l.batch >= ROWS_PER_THREAD * threads and not wide:
        job.threads = threads
        return
    if units > 1 and not job.whole_rows and job.cohorts == 1 and (job.fused or job.backward):   # else whole rows are computed
        threads = <int>min(threads, units)
        if work / l.steps / threads > WORTH_A_BARRIER:
            job.split_units = 1
            job.threads = threads
            return
    job.threads = max(1, <int>min(threads, l.batch // ROWS_PER_THREAD))


# The room that a call needs beside its results.

cdef size block_steps(size rows, size width, size steps) noexcept nogil:
    """Steps of `rows` rows of z that one block holds."""
    return max(1, min(steps, max(FEW_STEPS, SUMS // max(1, rows * width))))


cdef size gradient_steps(size batch, bint serial) noexcept nogil:
    """Steps of one block of the weights' gradients."""
    return (gradient_rows(serial) + batch - 1) // max(1, batch)


def gradient_block(size batch):
    """Steps of one block of a gradient that is summed over all of so many sequences, counted from the first step of a
    direction; those of `gradient_joint` are a multiple.
    """
    return gradient_steps(batch, False)


# Cohorts.

cdef int most_cohorts(size batch) noexcept nogil:
    """How many a batch may have, a power of 2: of 32 or more sequences each, or two of 8 or more."""
    cdef int found = 1
    while found < MOST_COHORTS and batch >= (16 if found == 1 else 64 * found):
        found *= 2
    return found


cpdef int count_cohorts(size batch, size rows):
    """How many cohorts a batch of so many packed rows has: to add up their gradients is to cost little beside the products."""
    cdef int found = most_cohorts(batch)
    while found > 1 and rows < 128 * found * min(found, 8):
        found //= 2
    return found


cpdef cnp.ndarray first_of_cohorts(size batch, size rows, lengths=None):
    """(count + 1,): where each cohort of a batch of so many packed rows begins in sorted order, and the end, behind which nobody
    has a step; all have about as many. None: there is one alone. `lengths` are those of the sequences, longest first, None if they are equal.
    """
    cdef cnp.npy_intp count = count_cohorts(batch, rows), length = count + 1
    cdef cnp.ndarray found, of_each
    cdef const int64_t *steps
    cdef size *first
    cdef size k, n = 0, before = 0
    if count == 1:
        return None
    found = cnp.PyArray_EMPTY(1, &length, cnp.NPY_INTP, 0)
    first = <size *>cnp.PyArray_DATA(found)
    if lengths is None:
        for k in range(length):
            first[k] = (batch * k + count - 1) // count
        return found
    of_each = np.ascontiguousarray(lengths, np.int64)
    steps = <const int64_t *>cnp.PyArray_DATA(of_each)
    first[0] = 0
    for k in range(1, length):
        while before * count < rows * k:
            before += steps[n]
            n += 1
        first[k] = min(max(n, first[k - 1] + 1), batch - count + k)   # each has a sequence
    return found


cdef bint own_cohorts(const Job *job, int members) noexcept nogil:
    """Whether each member of a team has cohorts to itself: where that leaves hardly anybody idle."""
    return job.cohorts > 1 and (job.cohorts % members == 0 or job.cohorts >= 4 * members)


cdef int side_by_side(const Job *job) noexcept nogil:
    """How many cohorts a thread takes back block by block, the last steps of all of them, which are still in its cache, first:
    as many as there is room for their gradients.
    """
    return <int>max(1, SECOND_CACHE // 2 // (job.apart * job.itemsize))


cdef size cohort_steps(size batch, int cohorts) noexcept nogil:
    """Steps of one block of the weights' gradients of a cohort: some 256 rows, and a part of `gradient_joint`."""
    cdef size once = gradient_steps(batch, False), found = cohorts
    while found > 1 and batch * once * found >= 2 * GRADIENT_ROWS * cohorts:
        found //= 2
    return once * found


def gradient_joint(size batch):
    """Steps at whose multiples the gradients of all layers have joints, counted from the first step of a direction."""
    return most_cohorts(batch) * gradient_steps(batch, False)


cdef bint weights_stay(size inputs, size hidden, size itemsize) noexcept nogil:
    """Whether weights stay in the second cache, so that each cohort may read them again."""
    return 4 * hidden * (inputs + hidden) * itemsize <= SECOND_CACHE


cdef inline void *moved(const Job *job, const void *base, size values) noexcept nogil:
    return NULL if base == NULL else place(job, base, values)


cdef void cut_cohorts(Job *job, Job *cohorts, int count, const size *first, size *offsets) noexcept nogil:
    """The jobs of the cohorts whose first sequences are `first` (count + 1); `offsets`, if the batch has such, has room for
    theirs, T + 1 each.
    """
    cdef const lstmx_layer *whole = &job.layer
    cdef lstmx_layer *l
    cdef Job *one
    cdef size before = 0, r0, rows, t
    cdef int k
    for k in range(count):
        one, r0 = &cohorts[k], first[k]
        one[0] = job[0]
        one.cohort, one.cohorts = one, 1
        l = &one.layer
        l.batch = first[k + 1] - r0
        rows = l.batch * l.steps
        if whole.offsets != NULL:
            l.offsets = offsets
            offsets[0] = 0
            for t in range(l.steps):
                offsets[t + 1] = offsets[t] + max(0, min(l.batch, rows_at(whole, t) - r0))
            rows = offsets[l.steps]
            offsets += l.steps + 1
        l.x, l.y, l.dy = moved(job, l.x, r0 * l.x_row), moved(job, l.y, r0 * l.y_row), moved(job, l.dy, r0 * l.dy_row)
        l.h, l.dh, l.dh_all = moved(job, l.h, r0 * l.outputs), moved(job, l.dh, r0 * l.outputs), moved(job, l.dh_all, r0 * l.outputs)
        l.c, l.dc, l.dc_all = moved(job, l.c, r0 * l.memory), moved(job, l.dc, r0 * l.memory), moved(job, l.dc_all, r0 * l.memory)
        one.dx = moved(job, job.dx, r0 * l.inputs)
        l.gates, l.h_prev = place(job, l.gates, before * l.gates_row), place(job, l.h_prev, before * l.h_row)
        l.c_prev = place(job, l.c_prev, before * l.c_row)
        one.sums = moved(job, job.sums, job.steps_per_block * r0 * job.kernels.gate_width(l.hidden))
        before += rows
    job.cohort, job.cohorts = cohorts, count


cdef size sums_rows(size batch, size inputs, size hidden, size itemsize, size steps, size width, int threads, bint fused,
                    bint windows) noexcept nogil:
    """Rows of z that a forward pass needs room for; 0 if W_ih x is summed with W_hh h at each step: where x is short, where
    there is one step, or where rows abound and both matrices stay in the cache from step to step.

    Windows share them: one row for every row of their series, and a seam for every thread.
    """
    if windows:
        return batch + block_steps(threads, width, steps) * threads
    if fused and (inputs <= 8 or steps == 1 or (batch >= 12 * threads and 4 * hidden * (inputs + hidden) * itemsize <= CACHE)):
        return 0
    return block_steps(batch, width, steps) * batch


cdef size room_for_sums(Job *job, int threads) noexcept nogil:
    """Sets a job's blocks, and gives the values of the room for z that the caller sets as `sums`; 0 for none."""
    cdef lstmx_layer *l = &job.layer
    cdef size width = job.kernels.gate_width(l.hidden), rows
    cdef bint shared = l.windows and job.fused   # the general path sums for every window anew
    job.steps_per_block = block_steps(threads if shared else l.batch, width, l.steps)
    if l.gates != NULL and not job.fused:   # z lies where the gates will be
        return 0
    rows = sums_rows(l.batch, l.inputs, l.hidden, job.itemsize, l.steps, width, threads, job.fused, shared)
    return (rows + 1) * width if rows else 0   # kernels read a little beyond the last row


def workspace(size batch, size steps, size inputs, size hidden, cnp.ndarray of_type, int threads, bint fused, bint serial,
              bint training):
    """Name -> values of what a call allocates beside its results and its tape.

    Parameters
    ----------
    batch, steps, inputs, hidden : N, T, I, H
    of_type : any array of the type
    threads : that a forward pass may have; a backward pass is told with its own
    fused, serial : whether the cell is fused; whether the engine's products have threads of their own
    training : whether a backward pass follows
    """
    cdef const lstmx_tile *kernels = tile_for(format_of(of_type))
    cdef size width = kernels.gate_width(hidden), itemsize = cnp.PyArray_ITEMSIZE(of_type), rows = 0
    cdef int cohorts = 1
    if fused or not training:
        rows = sums_rows(batch, inputs, hidden, itemsize, steps, width, threads, fused, False)
    found = {"sums": (rows + 1) * width} if rows else {}
    if training and not serial:
        if fused and weights_stay(inputs, hidden, itemsize):
            cohorts = count_cohorts(batch, batch * steps)
        if cohorts > 1:
            rows = strip_rows((batch + cohorts - 1) // cohorts, steps, cohort_steps(batch, cohorts))
            found["strips"] = threads * (kernels.outer_room(rows, max(inputs, hidden)) + rows * inputs)
            found["gradients"] = cohorts * 4 * hidden * (inputs + hidden + 1)
            return found
        rows = strip_rows(batch, steps, gradient_steps(batch, False))
        found["strips"] = threads * kernels.outer_room(rows, max(inputs, hidden))
        for n in (inputs, hidden):
            if turns(4 * hidden, n, batch * steps, kernels.lanes):
                found["turned"] = found.get("turned", 0) + 4 * hidden * n
    return found


cdef size strip_rows(size batch, size steps, size block) noexcept nogil:
    """The most rows whose gradients are summed at once, where blocks have so many steps."""
    return GRADIENT_ROWS if batch > GRADIENT_ROWS else min(steps, block) * batch


cdef bint turns(size width, size n, size rows, size lanes) noexcept nogil:
    """Whether the gradient (width, n) of a weight, a sum over `rows` rows, is found transposed: where its rows leave many lanes
    of their last vector empty, so that turning it takes less than that.
    """
    cdef size direct = width * ((n + lanes - 1) // lanes), turned = n * ((width + lanes - 1) // lanes)
    return n < lanes or (10 * turned <= 9 * direct and rows * (direct - turned) > TURNING * width * n)
