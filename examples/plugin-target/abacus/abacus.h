/* The abacus' words. On a real chip they are its language; here they are the shared emulation. */
#ifndef ABACUS
#define ABACUS
#define __bead__
#define rod_in dma_in
#define rod_strided dma_strided
#define rod_out dma_out
#define bead_dup vec_dup
#define bead_iota vec_iota
#define bead_cast vec_cast
#define bead_bits vec_bits
#define bead_select vec_select
#define bead_not vec_not
#define bead_add vec_add
#define bead_sub vec_sub
#define bead_mul vec_mul
#define bead_div vec_div
#define bead_floordiv vec_floordiv
#define bead_floormod vec_floormod
#define bead_max vec_max
#define bead_min vec_min
#define bead_lt vec_lt
#define bead_le vec_le
#define bead_gt vec_gt
#define bead_ge vec_ge
#define bead_eq vec_eq
#define bead_ne vec_ne
#define bead_and vec_and
#define bead_or vec_or
#define bead_xor vec_xor
#define bead_shl vec_shl
#define bead_shr vec_shr
#define bead_call vec_call
#endif
