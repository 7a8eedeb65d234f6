"""The arithmetic of a block of steps: what the time loop of loop.pyx lets its threads do, for rows that one of them owns.

Forward on the fused path is recurrent.h alone. On the general path a step is: the products W_ih x and W_hh h into rows z, the
cell on whole rows, and perhaps a projection. Backward a step is the cell's derivative and dh = dz W_hh; when all steps of a
block are done, its share of dx and of the parameters' gradients follows. A weight is one operand of the engine's products,
or one for each gate (where dropout gives each its own inputs) and head (`Side`).
"""

from libc.string cimport memcpy

from lstmx._core.core cimport lstmx_layer, lstmx_products
from lstmx._core.job cimport (first_row, gradient_rows, groups_of, Job, place, rows_at, Side, size, weights_stay, whole_row)


# Forward.

cdef void project(const Job *job, const Side *side, size rows, const void *a, size a_row, size apart, void *out, size out_row,
                  bint add) noexcept nogil:
    """out (rows, width) := [out +] a W^T, or with dropout masks for each gate, its inputs `apart` from each other."""
    cdef size K = side.wide // side.heads, n = job.layer.width // (side.blocks * side.heads), k, q
    for k in range(side.blocks):
        for q in range(side.heads):
            job.products.product(rows, n, K, place(job, a, k * apart + q * K), a_row, side.operands[k * side.heads + q],
                                 place(job, out, (k * side.heads + q) * n), out_row, add, 0, groups_of(job, n))


cdef void project_back(const Job *job, const Side *side, size k0, size k1, size rows, const void *dz, size dz_row, void *out,
                       size out_row, bint add) noexcept nogil:
    """out (rows, wide) := [out +] dz W, of the blocks k0..k1."""
    cdef size K = side.wide // side.heads, n = job.layer.width // (side.blocks * side.heads), k, q
    for k in range(k0, k1):
        for q in range(side.heads):
            job.products.product(rows, K, n, place(job, dz, (k * side.heads + q) * n), dz_row, side.operands[k * side.heads + q],
                                 place(job, out, q * K), out_row, add or k > k0, 0, groups_of(job, K))


cdef void mask(const Job *job, const Side *side, size rows, size first, const void *masks, const void *x, size x_row, void *out,
               size out_row) noexcept nogil:
    """out := x times each mask of the sequences from `first` on, side by side."""
    cdef size k
    for k in range(side.masks):
        job.kernels.multiply_rows(rows, side.wide, x, x_row, place(job, masks, (k * job.layer.batch + first) * side.wide), side.wide,
                                  place(job, out, k * side.wide), out_row, 0)


cdef void masked_back(const Job *job, const Side *side, size rows, size first, const void *masks, const void *dz, size dz_row,
                      void *room, size room_row, void *out, size out_row, bint add) noexcept nogil:
    """out := [out +] the gradient of what `mask` read; `room` holds dz W in between."""
    cdef size k
    for k in range(side.masks):
        if side.masks == 1:
            project_back(job, side, 0, side.blocks, rows, dz, dz_row, room, room_row, 0)
        else:
            project_back(job, side, k, k + 1, rows, dz, dz_row, room, room_row, 0)
        job.kernels.multiply_rows(rows, side.wide, room, room_row, place(job, masks, (k * job.layer.batch + first) * side.wide),
                                  side.wide, out, out_row, add or k > 0)


cdef inline void *extra_at(const Job *job, size t, size n, size column) noexcept nogil:
    """Where row n of step t has its `column` of `extra`; NULL where the cell has none."""
    cdef const lstmx_layer *l = &job.layer
    if column < 0:
        return NULL
    return place(job, l.extra, ((first_row(l, t) if l.gates != NULL else 0) + n) * l.extra_row + column)


cdef inline size apart(const Side *side) noexcept nogil:
    """Values from one masked copy to the next, where each gate has its own."""
    return side.wide if side.masks > 1 else 0


cdef inline const void *x_at(const Job *job, size t, size n) noexcept nogil:
    cdef const lstmx_layer *l = &job.layer
    return place(job, l.x, (l.whole[t] * l.x_row if l.offsets != NULL else t * l.x_step) + n * l.x_row)


cdef void input_product(const Job *job, size t, size r0, size rows, void *z, size width) noexcept nogil:
    """z := W_ih x of `rows` packed rows from row r0 of step t on."""
    cdef const lstmx_layer *l = &job.layer
    if job.ih.masks:
        project(job, &job.ih, rows, extra_at(job, t, r0, l.at.x), l.extra_row, apart(&job.ih), z, width, 0)
    else:
        project(job, &job.ih, rows, x_at(job, t, r0), l.x_row, 0, z, width, 0)


cdef void state_product(const Job *job, size t, size r0, size rows, void *z, size width) noexcept nogil:
    """z := z + W_hh h, or, where the two are normed by themselves, W_hh h beside z."""
    cdef const lstmx_layer *l = &job.layer
    cdef const void *h = place(job, l.h, r0 * l.outputs)
    cdef void *masked
    cdef bint beside = l.at.hh >= 0
    if beside:
        z, width = extra_at(job, t, r0, l.at.hh), l.extra_row
    if job.hh.masks:
        masked = extra_at(job, t, r0, l.at.h)
        mask(job, &job.hh, rows, r0, l.drop_h, h, l.outputs, masked, l.extra_row)
        project(job, &job.hh, rows, masked, l.extra_row, apart(&job.hh), z, width, not beside)
    else:
        project(job, &job.hh, rows, h, l.outputs, 0, z, width, not beside)


cdef void general_block(const Job *job, size s0, size s1, size r0, size r1) noexcept nogil:
    """The steps s0..s1 of rows r0..r1 on the general path: products into z, then the cell."""
    cdef const lstmx_layer *l = &job.layer
    cdef size width, t0, t1, s, t, end, place_of
    cdef bint tape = l.gates != NULL, packed = l.offsets != NULL or l.x_step == l.batch * l.x_row
    cdef bint whole = r0 == 0 and r1 == l.batch and packed and not l.windows   # x and z lie row after row
    cdef char *z
    cdef void *row
    whole = whole and (tape or job.ih.masks == 0)
    t0, t1 = (l.steps - s1, l.steps - s0) if l.reverse else (s0, s1)
    z = <char *>(l.gates if tape else job.sums)
    width = l.gates_row if tape else job.kernels.gate_width(l.hidden)
    if job.ih.masks and tape:
        for t in range(t0, t1):
            end = min(r1, rows_at(l, t))
            if end > r0:
                mask(job, &job.ih, end - r0, r0, l.drop_x, x_at(job, t, r0), l.x_row, extra_at(job, t, r0, l.at.x), l.extra_row)
    if whole:
        input_product(job, t0, 0, first_row(l, t1 - 1) + rows_at(l, t1 - 1) - first_row(l, t0),
                      place(job, z, first_row(l, t0) * width) if tape else z, width)
    for s in range(s0, s1):
        t = l.steps - 1 - s if l.reverse else s
        end = min(r1, rows_at(l, t))
        if end <= r0:
            continue
        if tape:
            place_of = first_row(l, t)
        elif whole:
            place_of = first_row(l, t) - first_row(l, t0)
        else:   # others may be at other blocks, whose steps have fewer rows: each row has its own places
            place_of = (t - t0) * l.batch
        row = place(job, z, (place_of + r0) * width)
        if not whole:
            if job.ih.masks and not tape:
                mask(job, &job.ih, end - r0, r0, l.drop_x, x_at(job, t, r0), l.x_row, extra_at(job, t, r0, l.at.x), l.extra_row)
            input_product(job, t, r0, end - r0, row, width)
        state_product(job, t, r0, end - r0, row, width)
        job.kernels.forward_cells(l, t, r0, end, row, width)
        if job.w_hr != NULL:
            output_product(job, t, r0, end - r0)
            job.kernels.finish_outputs(l, t, r0, end)


cdef void output_product(const Job *job, size t, size r0, size rows) noexcept nogil:
    """The projection: h := W_hr of what the output gate lets through; where zoneout follows, beside the old h."""
    cdef const lstmx_layer *l = &job.layer
    cdef size P = l.outputs
    cdef bint beside = l.cell.zoneout_h > 0
    job.products.product(rows, P, l.hidden, extra_at(job, t, r0, l.at.shown), l.extra_row, job.w_hr,
                         extra_at(job, t, r0, l.at.out) if beside else place(job, l.h, r0 * P), l.extra_row if beside else P, 0, 0,
                         groups_of(job, P))


cdef void forward_block(const Job *job, size s, size end, size r0, size r1, size p0, size p1, char *sums) noexcept nogil:
    """The steps s..end of rows r0..r1 and panels p0..p1."""
    cdef const lstmx_layer *l = &job.layer
    if not job.fused:
        general_block(job, s, end, r0, r1)
        return
    if sums != NULL:
        input_sums(job, s, end, r0, r1, p0, p1, sums)
    job.kernels.forward_steps(l, s, end, r0, r1, p0, p1, sums)


cdef void input_sums(const Job *job, size s, size end, size r0, size r1, size p0, size p1, char *sums) noexcept nogil:
    """W_ih x of the steps s..end, in the direction's own order."""
    cdef const lstmx_layer *l = &job.layer
    if l.reverse:
        s, end = l.steps - end, l.steps - s
    job.kernels.input_sums(l, s, end, r0, r1, p0, p1, sums)


# Backward.

cdef size column_share(const Job *job, int part, int parts) noexcept nogil:
    """The first column of dz of a part of the weights' gradients: whole vectors."""
    cdef size lanes = job.kernels.lanes, width = job.layer.width
    return min(width, (width + lanes - 1) // lanes * part // parts * lanes)


cdef void outer_side(const Job *job, const Side *side, size rows, size m0, size m1, const void *dz, size dz_row, const void *a,
                     size a_row, void *out, bint add, void *strip) noexcept nogil:
    """Rows m0..m1 of the gradient of a weight (width, wide / heads): out := [out +] dz^T a, block by block and head by head."""
    cdef size K = side.wide // side.heads, n = job.layer.width // (side.blocks * side.heads), k, q, first, low, high
    for k in range(side.blocks):
        for q in range(side.heads):
            first = (k * side.heads + q) * n
            low, high = max(m0, first), min(m1, first + n)
            if low < high:
                job.products.outer(rows, low, high, K, dz, dz_row, place(job, a, k * apart(side) + q * K), a_row, out, K, add, strip)


cdef void outer_turned(const Job *job, size n, size rows, size m0, size m1, const void *dz, const void *a, size a_row, void *out,
                       bint add) noexcept nogil:
    """Columns m0..m1 of the transposed gradient (n, width) of a weight: out := [out +] a^T dz."""
    cdef const lstmx_layer *l = &job.layer
    job.products.outer(rows, 0, n, m1 - m0, a, a_row, place(job, dz, m0), l.gates_row, place(job, out, m0), l.width, add, NULL)


cdef void block_gradients(const Job *job, int me, int part, int parts, size t0, size t1, size r0, size r1, bint add) noexcept nogil:
    """A part of the parameters' gradients and of dx over the packed rows r0..r1, which lie in the steps t0..t1: every output
    belongs to one part."""
    cdef const lstmx_layer *l = &job.layer
    cdef const lstmx_products *products = job.products
    cdef size P = l.outputs, I = l.inputs, V = l.at.vectors_width, rows = r1 - r0, m0, m1
    cdef char *extra = NULL if l.extra == NULL else <char *>place(job, l.extra, r0 * l.extra_row)
    cdef void *dz = place(job, l.gates, r0 * l.gates_row)
    cdef void *strip = NULL if job.strips == NULL else job.strips + me * job.strip_bytes
    cdef const void *x = place(job, extra, l.at.x) if job.ih.masks else packed_x(job, t0, t1, r0, r1, strip)
    cdef const void *h = place(job, extra, l.at.h) if job.hh.masks else place(job, l.h_prev, r0 * l.h_row)
    cdef size x_row = l.extra_row if job.ih.masks else l.x_row, h_row = l.extra_row if job.hh.masks else l.h_row
    m0, m1 = column_share(job, part, parts), column_share(job, part + 1, parts)
    if m0 < m1:
        if job.dw_hh_turned != NULL:
            outer_turned(job, P, rows, m0, m1, dz, h, h_row, job.dw_hh_turned, add)
        else:
            outer_side(job, &job.hh, rows, m0, m1, dz if l.at.hh < 0 else place(job, extra, l.at.hh),
                       l.gates_row if l.at.hh < 0 else l.extra_row, h, h_row, job.dw_hh, add, strip)
        if job.dw_ih_turned != NULL:
            outer_turned(job, I, rows, m0, m1, dz, x, x_row, job.dw_ih_turned, add)
        else:
            outer_side(job, &job.ih, rows, m0, m1, dz, l.gates_row, x, x_row, job.dw_ih, add, strip)
        if job.db != NULL:
            job.kernels.sum_rows(rows, m1 - m0, place(job, dz, m0), l.gates_row, place(job, job.db, m0), add)
    m0, m1 = V * part // parts, V * (part + 1) // parts
    if m0 < m1:
        job.kernels.sum_rows(rows, m1 - m0, place(job, extra, l.at.vectors + m0), l.extra_row, place(job, job.d_vectors, m0), add)
    m0, m1 = P * part // parts, P * (part + 1) // parts
    if job.dw_hr != NULL and m0 < m1:
        products.outer(rows, m0, m1, l.hidden, place(job, extra, l.at.out), l.extra_row, place(job, extra, l.at.shown),
                       l.extra_row, job.dw_hr, l.hidden, add, strip)
    if job.dx != NULL:
        input_gradient(job, t0, t1, r0 + rows * part // parts, r0 + rows * (part + 1) // parts, strip)


cdef void input_gradient(const Job *job, size t0, size t1, size r0, size r1, void *strip) noexcept nogil:
    """dx of the packed rows r0..r1, which lie in the steps t0..t1; that of a cohort is brought to its places."""
    cdef const lstmx_layer *l = &job.layer
    cdef size I = l.inputs, t, first, low, high
    cdef bint whole = job.ih.masks == 0 and alone(l), apart = job.ih.masks == 0 and not (whole or job.add_to_dx)
    cdef void *dx = place(job, strip, job.x_room) if apart else place(job, job.dx, r0 * I)
    cdef void *to
    if whole or apart:
        project_back(job, &job.ih, 0, job.ih.blocks, r1 - r0, place(job, l.gates, r0 * l.gates_row), l.gates_row, dx, I,
                     job.add_to_dx)
        if whole:
            return
    for t in range(t0, t1):   # masks belong to sequences
        first = first_row(l, t)
        low, high = max(r0, first), min(r1, first + rows_at(l, t))
        if low >= high:
            continue
        to = place(job, job.dx, (whole_row(l, t) + low - first) * I)
        if job.ih.masks:
            masked_back(job, &job.ih, high - low, low - first, l.drop_x, place(job, l.gates, low * l.gates_row), l.gates_row,
                        extra_at(job, t, low - first, l.at.dx), l.extra_row, to, I, job.add_to_dx)
        elif job.add_to_dx:
            project_back(job, &job.ih, 0, job.ih.blocks, high - low, place(job, l.gates, low * l.gates_row), l.gates_row, to, I, 1)
        else:
            memcpy(to, place(job, dx, (low - r0) * I), (high - low) * I * job.itemsize)


cdef inline bint alone(const lstmx_layer *l) noexcept nogil:
    """Whether the packed rows of x are those of these sequences alone, which then are no cohort."""
    return l.whole == l.offsets and l.whole_batch == l.batch


cdef const void *packed_x(const Job *job, size t0, size t1, size r0, size r1, void *strip) noexcept nogil:
    """The packed rows r0..r1 of x, which lie in the steps t0..t1; those of a cohort are brought together."""
    cdef const lstmx_layer *l = &job.layer
    cdef size t, first, low, high
    cdef void *room
    if alone(l):
        return place(job, l.x, r0 * l.x_row)
    room = place(job, strip, job.x_room)
    for t in range(t0, t1):
        first = first_row(l, t)
        low, high = max(r0, first), min(r1, first + rows_at(l, t))
        if low < high:
            memcpy(place(job, room, (low - r0) * l.x_row), place(job, l.x, (whole_row(l, t) + low - first) * l.x_row),
                   (high - low) * l.x_row * job.itemsize)
    return room


cdef void gradients(const Job *job, int me, int part, int parts, size s, size end) noexcept nogil:
    """A part of the parameters' gradients and of dx of the steps s..end, at most some 256 rows at once, last to first."""
    cdef const lstmx_layer *l = &job.layer
    cdef size t0, t1, r0, r1, most = gradient_rows(job.serial), start
    cdef bint add
    t0, t1 = (l.steps - end, l.steps - s) if l.reverse else (s, end)
    r0, r1 = first_row(l, t0), first_row(l, t1 - 1) + rows_at(l, t1 - 1)
    add = job.add or (r0 > 0 if l.reverse else r1 < first_row(l, l.steps))
    while r1 > r0:
        start = r0 + (r1 - 1 - r0) // most * most if l.batch > most else r0
        block_gradients(job, me, part, parts, t0, t1, start, r1, add)
        add = True
        r1 = start


cdef void backward_step(const Job *job, size k, size r0, size r1) noexcept nogil:
    """dz and dh of rows r0..r1 at the step k of the direction."""
    cdef const lstmx_layer *l = &job.layer
    cdef size t = l.steps - 1 - k if l.reverse else k, stop = min(r1, rows_at(l, t))
    if r0 >= stop:
        return
    if l.at.out >= 0:
        job.kernels.open_gradients(l, t, r0, stop)
        if job.w_hr != NULL:
            job.products.product(stop - r0, l.hidden, l.outputs, extra_at(job, t, r0, l.at.out), l.extra_row, job.w_hr,
                                 extra_at(job, t, r0, l.at.d_shown), l.extra_row, 0, 0, groups_of(job, l.hidden))
    job.kernels.backward_cells(l, t, r0, stop, 0, l.hidden)
    if job.whole_rows:
        state_gradient(job, t, r0, stop - r0)
    else:
        step_gradient(job, t, r0, stop, 0, groups_of(job, l.outputs))


cdef void state_gradient(const Job *job, size t, size r0, size rows) noexcept nogil:
    """dh := dz W_hh, and what zoneout has left in it."""
    cdef const lstmx_layer *l = &job.layer
    cdef size P = l.outputs, dz_row = l.gates_row if l.at.hh < 0 else l.extra_row
    cdef void *dz = place(job, l.gates, (first_row(l, t) + r0) * l.gates_row)
    cdef void *dh = place(job, l.dh, r0 * P)
    cdef bint add = l.cell.zoneout_h > 0
    if l.at.hh >= 0:
        dz = extra_at(job, t, r0, l.at.hh)
    if job.hh.masks:
        masked_back(job, &job.hh, rows, r0, l.drop_h, dz, dz_row, extra_at(job, t, r0, l.at.dh), l.extra_row, dh, P, add)
    else:
        project_back(job, &job.hh, 0, job.hh.blocks, rows, dz, dz_row, dh, P, add)


cdef void step_gradient(const Job *job, size t, size r0, size r1, size g0, size g1) noexcept nogil:
    """dh = dz W_hh at t, for rows r0..r1 and groups g0..g1 of its columns: at every other step from the last ones to the first, so
    that it begins with weights that are still in a cache which is too small for all."""
    cdef const lstmx_layer *l = &job.layer
    cdef size low
    if r0 >= r1:
        return
    while g1 > g0:
        low = max(g0, g1 - 2) if t % 2 and not weights_stay(l.inputs, l.hidden, job.itemsize) else g0
        job.products.product(r1 - r0, l.outputs, l.width, place(job, l.gates, (first_row(l, t) + r0) * l.gates_row),
                             l.gates_row, job.hh.operands[0], place(job, l.dh, r0 * l.outputs), l.outputs, 0, low, g1)
        g1 = low
