// The arithmetic of one element of AdamW, for one float (CUDA) or a vector of them (the CPU's instruction sets).
// Included inside a namespace, after the includer has defined ADAMW_INLINE and, for its F, root(F) and quotient(F, F).
// Order of operations as in torch.optim.AdamW: decay, moments, then the update by the old, decayed parameter.

template <class F, class C>
ADAMW_INLINE void update(F& param, F gradient, F& exp_avg, F& exp_avg_sq, const C& c) {
  param = param * c.decay;
  exp_avg = exp_avg + c.first * (gradient - exp_avg);
  exp_avg_sq = c.beta2 * exp_avg_sq + c.second * gradient * gradient;
  param = param - quotient(c.step_size * exp_avg, root(exp_avg_sq) * c.root_scale + c.eps);
}

// 32 random bits for an element: multiplications by xxHash's primes between folds, keyed twice so that two tensors do
// not draw permutations of one sequence. A function of the keys and the element's index alone.
template <class U>
ADAMW_INLINE U random_bits(U index, unsigned a, unsigned b) {
  U x = (index ^ a) * 0x9e3779b1u;
  x = ((x ^ (x >> 15)) ^ b) * 0x85ebca77u;
  x = (x ^ (x >> 13)) * 0xc2b2ae3du;
  return x ^ (x >> 16);
}

// A second draw from a first.
template <class U>
ADAMW_INLINE U more_bits(U bits) {
  U x = (bits ^ 0x27d4eb2fu) * 0x165667b1u;
  x = (x ^ (x >> 15)) * 0x85ebca77u;
  return x ^ (x >> 13);
}
