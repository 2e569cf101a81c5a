// The arithmetic of rotary embedding, one source for the GPU and for every instruction set of the CPU. It is included
// inside the namespace of its user, after ROTARY_INLINE is defined, and includes nothing itself (cpu/vector.inc says
// why).

// The pair (a, b), turned by the angle of cosine c and sine s. V is a float or a vector of floats.
template <class V>
ROTARY_INLINE void turn(V& a, V& b, V c, V s) {
  const V x = a * c - b * s;
  b = b * c + a * s;
  a = x;
}

// The sequence that holds token t: the last whose offset is at most t (empty sequences share their offset).
ROTARY_INLINE long sequence_of(const std::int32_t* cu_seqlens, long sequences, long t) {
  long low = 0, high = sequences;  // the answer lies in [low, high)
  while (high - low > 1) {
    const long middle = (low + high) / 2;
    if (cu_seqlens[middle] <= t)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// The row of cosines and sines of token t of batch b; -1 where the tables have none.
template <class Arguments>
ROTARY_INLINE long row_of(const Arguments& a, long b, long t) {
  // Given positions, else the place in the sequence.
  long row;
  if (a.positions) {
    const long at = b * a.position_batch + t;
    row = a.positions_are_64_bits ? static_cast<long>(static_cast<const std::int64_t*>(a.positions)[at])
                                  : static_cast<long>(static_cast<const std::int32_t*>(a.positions)[at]);
  } else {
    row = a.offset + t;
    if (a.cu_seqlens) row -= a.cu_seqlens[sequence_of(a.cu_seqlens, a.sequences, t)];
  }
  return row >= 0 && row < a.rows ? row : -1;
}
