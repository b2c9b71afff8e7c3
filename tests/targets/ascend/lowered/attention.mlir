#map = affine_map<(d0)[s0] -> (d0 + s0)>
#map1 = affine_map<(d0) -> (d0, 0)>
module attributes {dlti.target_system_spec = #dlti.target_system_spec<"NPU" : #hacc.target_device_spec<#dlti.dl_entry<"AI_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"CUBE_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"VECTOR_CORE_COUNT", 64 : i32>, #dlti.dl_entry<"UB_SIZE", 2031616 : i32>, #dlti.dl_entry<"L1_SIZE", 4194304 : i32>, #dlti.dl_entry<"L0A_SIZE", 524288 : i32>, #dlti.dl_entry<"L0B_SIZE", 524288 : i32>, #dlti.dl_entry<"L0C_SIZE", 2097152 : i32>, #dlti.dl_entry<"UB_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L1_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L0C_ALIGN_SIZE", 4096 : i32>, #dlti.dl_entry<"MINIMAL_D_CACHE_SIZE", 262144 : i32>, #dlti.dl_entry<"MAXIMUM_D_CACHE_SIZE", 983040 : i32>, #dlti.dl_entry<"ARCH", "dav-c310">>>, hacc.target = #hacc.target<"Ascend950PR_9589">, hivm.module_core_type = #hivm.module_core_type<MIX>} {
  func.func @attention_fused_1_outlined_vf_0(%arg0: memref<32x64xf32, #hivm.address_space<ub>>, %arg1: memref<32x64xf32, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant dense<0.0833333358> : vector<64xf32>
    %cst_0 = arith.constant 0.000000e+00 : f32
    %c1 = arith.constant 1 : index
    %c32 = arith.constant 32 : index
    %c0 = arith.constant 0 : index
    scf.for %arg2 = %c0 to %c32 step %c1 {
      %subview = memref.subview %arg0[%arg2, 0] [1, 64] [1, 1] : memref<32x64xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>>
      %subview_1 = memref.subview %arg1[%arg2, 0] [1, 64] [1, 1] : memref<32x64xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>>
      %subview_2 = memref.subview %subview[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
      %0 = vector.transfer_read %subview_2[%c0], %cst_0 {in_bounds = [true]} : memref<64xf32, #map, #hivm.address_space<ub>>, vector<64xf32>
      %1 = arith.mulf %0, %cst : vector<64xf32>
      %subview_3 = memref.subview %subview_1[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
      vector.transfer_write %1, %subview_3[%c0] {in_bounds = [true]} : vector<64xf32>, memref<64xf32, #map, #hivm.address_space<ub>>
    }
    return
  }
  func.func @attention_fused_1_outlined_vf_1(%arg0: memref<32x64xf32, #hivm.address_space<ub>>, %arg1: memref<32xf32, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant 0.000000e+00 : f32
    %c1 = arith.constant 1 : index
    %c32 = arith.constant 32 : index
    %c0 = arith.constant 0 : index
    scf.for %arg2 = %c0 to %c32 step %c1 {
      %subview = memref.subview %arg1[%arg2] [1] [1] : memref<32xf32, #hivm.address_space<ub>> to memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>
      %subview_0 = memref.subview %arg0[%arg2, 0] [1, 64] [1, 1] : memref<32x64xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>>
      %subview_1 = memref.subview %subview_0[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
      %0 = vector.transfer_read %subview_1[%c0], %cst {in_bounds = [true]} : memref<64xf32, #map, #hivm.address_space<ub>>, vector<64xf32>
      %subview_2 = memref.subview %subview[0] [1] [1] : memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>> to memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>
      %1 = vector.transfer_read %subview_2[], %cst : memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>, vector<f32>
      %2 = vector.shape_cast %1 : vector<f32> to vector<1xf32>
      %3 = builtin.unrealized_conversion_cast %2 : vector<1xf32> to f32
      %4 = vector.reduction <maximumf>, %0, %3 {withoutInitMergeOp} : vector<64xf32> into f32
      %5 = builtin.unrealized_conversion_cast %4 : f32 to vector<1xf32>
      %6 = vector.shape_cast %5 : vector<1xf32> to vector<f32>
      vector.transfer_write %6, %subview_2[] : vector<f32>, memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>
    }
    return
  }
  func.func @attention_fused_2_outlined_vf_0(%arg0: memref<32x64xf32, #hivm.address_space<ub>>, %arg1: memref<32xf32, #hivm.address_space<ub>>, %arg2: memref<32xf32, #hivm.address_space<ub>>, %arg3: memref<32x64xbf16, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant dense<0.000000e+00> : vector<64xf32>
    %cst_0 = arith.constant 0.000000e+00 : f32
    %c1 = arith.constant 1 : index
    %c32 = arith.constant 32 : index
    %c0 = arith.constant 0 : index
    scf.for %arg4 = %c0 to %c32 step %c1 {
      %subview = memref.subview %arg2[%arg4] [1] [1] : memref<32xf32, #hivm.address_space<ub>> to memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>
      %subview_1 = memref.subview %arg0[%arg4, 0] [1, 64] [1, 1] : memref<32x64xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>>
      %subview_2 = memref.subview %arg1[%arg4] [1] [1] : memref<32xf32, #hivm.address_space<ub>> to memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>
      %subview_3 = memref.subview %subview_1[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[64, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
      %0 = vector.transfer_read %subview_3[%c0], %cst_0 {in_bounds = [true]} : memref<64xf32, #map, #hivm.address_space<ub>>, vector<64xf32>
      %1 = vector.transfer_read %subview_2[%c0], %cst_0 {in_bounds = [true, true], permutation_map = #map1} : memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>, vector<1x64xf32>
      %2 = vector.shape_cast %1 : vector<1x64xf32> to vector<64xf32>
      %3 = arith.subf %0, %2 : vector<64xf32>
      %4 = math.exp %3 : vector<64xf32>
      %5 = arith.addf %4, %cst {reductionOp} : vector<64xf32>
      %subview_4 = memref.subview %arg3[%arg4, 0] [1, 64] [1, 1] : memref<32x64xbf16, #hivm.address_space<ub>> to memref<1x64xbf16, strided<[64, 1], offset: ?>, #hivm.address_space<ub>>
      %6 = arith.truncf %4 {enable_saturate = false, round_mode = #hfusion.round_mode<rint>, unsigned_mode = #hfusion.unsigned_mode<si2si>} : vector<64xf32> to vector<64xbf16>
      %subview_5 = memref.subview %subview_4[0, 0] [1, 64] [1, 1] : memref<1x64xbf16, strided<[64, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xbf16, #map, #hivm.address_space<ub>>
      vector.transfer_write %6, %subview_5[%c0] {in_bounds = [true]} : vector<64xbf16>, memref<64xbf16, #map, #hivm.address_space<ub>>
      %subview_6 = memref.subview %subview[0] [1] [1] : memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>> to memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>
      %7 = vector.transfer_read %subview_6[], %cst_0 : memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>, vector<f32>
      %8 = vector.shape_cast %7 : vector<f32> to vector<1xf32>
      %9 = builtin.unrealized_conversion_cast %8 : vector<1xf32> to f32
      %10 = vector.reduction <add>, %5, %9 {withoutInitMergeOp} : vector<64xf32> into f32
      %11 = builtin.unrealized_conversion_cast %10 : f32 to vector<1xf32>
      %12 = vector.shape_cast %11 : vector<1xf32> to vector<f32>
      vector.transfer_write %12, %subview_6[] : vector<f32>, memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>
    }
    return
  }
  func.func @attention_fused_3_outlined_vf_0(%arg0: memref<32xf32, #hivm.address_space<ub>>, %arg1: memref<32x128xf32, #hivm.address_space<ub>>, %arg2: memref<32x128xbf16, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant 0.000000e+00 : f32
    %c1 = arith.constant 1 : index
    %c32 = arith.constant 32 : index
    %c64 = arith.constant 64 : index
    %c128 = arith.constant 128 : index
    %c0 = arith.constant 0 : index
    scf.for %arg3 = %c0 to %c32 step %c1 {
      %subview = memref.subview %arg0[%arg3] [1] [1] : memref<32xf32, #hivm.address_space<ub>> to memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>
      scf.for %arg4 = %c0 to %c128 step %c64 {
        %subview_0 = memref.subview %arg1[%arg3, %arg4] [1, 64] [1, 1] : memref<32x128xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[128, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_1 = memref.subview %arg2[%arg3, %arg4] [1, 64] [1, 1] : memref<32x128xbf16, #hivm.address_space<ub>> to memref<1x64xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_2 = memref.subview %subview_0[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[128, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
        %0 = vector.transfer_read %subview_2[%c0], %cst {in_bounds = [true]} : memref<64xf32, #map, #hivm.address_space<ub>>, vector<64xf32>
        %1 = vector.transfer_read %subview[%c0], %cst {in_bounds = [true, true], permutation_map = #map1} : memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>, vector<1x64xf32>
        %2 = vector.shape_cast %1 : vector<1x64xf32> to vector<64xf32>
        %3 = arith.divf %0, %2 : vector<64xf32>
        %4 = arith.truncf %3 {enable_saturate = false, round_mode = #hfusion.round_mode<rint>, unsigned_mode = #hfusion.unsigned_mode<si2si>} : vector<64xf32> to vector<64xbf16>
        %subview_3 = memref.subview %subview_1[0, 0] [1, 64] [1, 1] : memref<1x64xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xbf16, #map, #hivm.address_space<ub>>
        vector.transfer_write %4, %subview_3[%c0] {in_bounds = [true]} : vector<64xbf16>, memref<64xbf16, #map, #hivm.address_space<ub>>
      }
    }
    return
  }
  func.func @attention_mix_aic(%arg0: memref<?xbf16, #hivm.address_space<gm>>, %arg1: memref<?xbf16, #hivm.address_space<gm>>, %arg2: memref<?xbf16, #hivm.address_space<gm>>, %arg3: i32, %arg4: i32, %arg5: i32) attributes {func_dyn_memref_args = dense<[true, true, true, false, false, false]> : vector<6xi1>, hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.func_core_type = #hivm.func_core_type<AIC>, hivm.part_of_mix, hivm.vf_mode = #hivm.vf_mode<SIMD>} {
    %c-1_i64 = arith.constant -1 : i64
    %c0_i64 = arith.constant 0 : i64
    %c1_i64 = arith.constant 1 : i64
    %c12544_i64 = arith.constant 12544 : i64
    %c24576_i64 = arith.constant 24576 : i64
    %c8192_i64 = arith.constant 8192 : i64
    %c32 = arith.constant 32 : index
    %c128 = arith.constant 128 : index
    %c64 = arith.constant 64 : index
    %true = arith.constant true
    hivm.hir.set_ctrl false at ctrl[60]
    hivm.hir.set_ctrl true at ctrl[48]
    %0 = arith.muli %arg3, %arg4 : i32
    %1 = arith.muli %0, %arg5 : i32
    annotation.mark %1 {logical_block_num} : i32
    %reinterpret_cast = memref.reinterpret_cast %arg0 to offset: [0], sizes: [32, 128], strides: [128, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<32x128xbf16, strided<[128, 1]>, #hivm.address_space<gm>>
    %2 = hivm.hir.pointer_cast(%c0_i64) : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>
    %cast = memref.cast %2 : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>> to memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>
    hivm.hir.nd2nz {dst_continuous} ins(%reinterpret_cast : memref<32x128xbf16, strided<[128, 1]>, #hivm.address_space<gm>>) outs(%cast : memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>)
    hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE1>, <EVENT_ID0>]
    %reinterpret_cast_0 = memref.reinterpret_cast %arg1 to offset: [0], sizes: [64, 128], strides: [128, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<64x128xbf16, strided<[128, 1]>, #hivm.address_space<gm>>
    %3 = hivm.hir.pointer_cast(%c8192_i64) : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>
    %cast_1 = memref.cast %3 : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>> to memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>
    hivm.hir.nd2nz {dst_continuous} ins(%reinterpret_cast_0 : memref<64x128xbf16, strided<[128, 1]>, #hivm.address_space<gm>>) outs(%cast_1 : memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>)
    hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE1>, <EVENT_ID1>]
    %4 = hivm.hir.pointer_cast(%c0_i64) : memref<4x2x16x16xf32, #hivm.address_space<cc>>
    %cast_2 = memref.cast %4 : memref<4x2x16x16xf32, #hivm.address_space<cc>> to memref<?x?x?x?xf32, #hivm.address_space<cc>>
    hivm.hir.set_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID0>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID1>]
    hivm.hir.mmadL1 {already_set_real_mkn, b_transpose, fixpipe_for_result_already_inserted = true, normalized_in_L0C} ins(%cast, %cast_1, %true, %c32, %c128, %c64 : memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>, memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>, i1, index, index, index) outs(%cast_2 : memref<?x?x?x?xf32, #hivm.address_space<cc>>) sync_related_args(%c0_i64, %c1_i64, %c-1_i64, %c-1_i64, %c-1_i64, %c-1_i64, %c-1_i64 : i64, i64, i64, i64, i64, i64, i64)
    hivm.hir.set_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    %5 = hivm.hir.pointer_cast(%c0_i64) : memref<32x64xf32, #hivm.address_space<ub>>
    annotation.mark %5 {effects = ["write", "read"], hivm.tightly_coupled_buffer = #hivm.tightly_coupled_buffer<0>} : memref<32x64xf32, #hivm.address_space<ub>>
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    hivm.hir.fixpipe {dma_mode = #hivm.dma_mode<nz2nd>} ins(%4 : memref<4x2x16x16xf32, #hivm.address_space<cc>>) outs(%5 : memref<32x64xf32, #hivm.address_space<ub>>)
    hivm.hir.sync_block_set[<CUBE>, <PIPE_FIX>, <PIPE_V>] flag = 0
    %6 = hivm.hir.pointer_cast(%c24576_i64) : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %6 {effects = ["write", "read"], hivm.tightly_coupled_buffer = #hivm.tightly_coupled_buffer<1>} : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    %7 = hivm.hir.pointer_cast(%c8192_i64) : memref<8x2x16x16xf32, #hivm.address_space<cc>>
    %cast_3 = memref.cast %7 : memref<8x2x16x16xf32, #hivm.address_space<cc>> to memref<?x?x?x?xf32, #hivm.address_space<cc>>
    hivm.hir.sync_block_wait[<CUBE>, <PIPE_MTE3>, <PIPE_MTE1>] flag = 3
    hivm.hir.mmadL1 {already_set_real_mkn, fixpipe_for_result_already_inserted = true, normalized_in_L0C} ins(%6, %cast_1, %true, %c32, %c64, %c128 : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>, memref<?x?x?x?xbf16, #hivm.address_space<cbuf>>, i1, index, index, index) outs(%cast_3 : memref<?x?x?x?xf32, #hivm.address_space<cc>>)
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID1>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    %8 = hivm.hir.pointer_cast(%c12544_i64) : memref<32x128xf32, #hivm.address_space<ub>>
    annotation.mark %8 {effects = ["write", "read"], hivm.tightly_coupled_buffer = #hivm.tightly_coupled_buffer<2>} : memref<32x128xf32, #hivm.address_space<ub>>
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    hivm.hir.fixpipe {dma_mode = #hivm.dma_mode<nz2nd>} ins(%7 : memref<8x2x16x16xf32, #hivm.address_space<cc>>) outs(%8 : memref<32x128xf32, #hivm.address_space<ub>>)
    hivm.hir.sync_block_set[<CUBE>, <PIPE_FIX>, <PIPE_V>] flag = 2
    hivm.hir.sync_block_set[<CUBE>, <PIPE_FIX>, <PIPE_MTE3>] flag = 1
    hivm.hir.set_ctrl true at ctrl[60]
    hivm.hir.pipe_barrier[<PIPE_ALL>]
    return
  }
  func.func @attention_mix_aiv(%arg0: memref<?xbf16, #hivm.address_space<gm>>, %arg1: memref<?xbf16, #hivm.address_space<gm>>, %arg2: memref<?xbf16, #hivm.address_space<gm>>, %arg3: i32, %arg4: i32, %arg5: i32) attributes {func_dyn_memref_args = dense<[true, true, true, false, false, false]> : vector<6xi1>, hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.part_of_mix, hivm.vf_mode = #hivm.vf_mode<SIMD>} {
    %c12544_i64 = arith.constant 12544 : i64
    %c24576_i64 = arith.constant 24576 : i64
    %c8448_i64 = arith.constant 8448 : i64
    %c8320_i64 = arith.constant 8320 : i64
    %c8192_i64 = arith.constant 8192 : i64
    %c0_i64 = arith.constant 0 : i64
    %c0 = arith.constant 0 : index
    hivm.hir.set_ctrl false at ctrl[60]
    hivm.hir.set_ctrl true at ctrl[48]
    %0 = arith.muli %arg3, %arg4 : i32
    %1 = arith.muli %0, %arg5 : i32
    annotation.mark %1 {logical_block_num} : i32
    %2 = hivm.hir.pointer_cast(%c0_i64) : memref<32x64xf32, #hivm.address_space<ub>>
    annotation.mark %2 {effects = ["write", "read"], hivm.tightly_coupled_buffer = #hivm.tightly_coupled_buffer<0>} : memref<32x64xf32, #hivm.address_space<ub>>
    %3 = hivm.hir.pointer_cast(%c0_i64) : memref<32x64xf32, #hivm.address_space<ub>>
    hivm.hir.sync_block_wait[<VECTOR>, <PIPE_FIX>, <PIPE_V>] flag = 0
    call @attention_fused_1_outlined_vf_0(%2, %3) {hivm.vector_function, no_inline} : (memref<32x64xf32, #hivm.address_space<ub>>, memref<32x64xf32, #hivm.address_space<ub>>) -> ()
    %4 = hivm.hir.pointer_cast(%c8192_i64) : memref<32xf32, #hivm.address_space<ub>>
    call @attention_fused_1_outlined_vf_1(%3, %4) {hivm.vector_function, no_inline} : (memref<32x64xf32, #hivm.address_space<ub>>, memref<32xf32, #hivm.address_space<ub>>) -> ()
    %5 = hivm.hir.pointer_cast(%c8320_i64) : memref<32xf32, #hivm.address_space<ub>>
    %6 = hivm.hir.pointer_cast(%c0_i64) : memref<32x64xbf16, #hivm.address_space<ub>>
    call @attention_fused_2_outlined_vf_0(%3, %4, %5, %6) {hivm.vector_function, no_inline} : (memref<32x64xf32, #hivm.address_space<ub>>, memref<32xf32, #hivm.address_space<ub>>, memref<32xf32, #hivm.address_space<ub>>, memref<32x64xbf16, #hivm.address_space<ub>>) -> ()
    %expand_shape = memref.expand_shape %6 [[0], [1, 2]] output_shape [32, 4, 16] : memref<32x64xbf16, #hivm.address_space<ub>> into memref<32x4x16xbf16, #hivm.address_space<ub>>
    %7 = hivm.hir.pointer_cast(%c8448_i64) : memref<4x32x16xbf16, #hivm.address_space<ub>>
    hivm.hir.vtranspose ins(%expand_shape : memref<32x4x16xbf16, #hivm.address_space<ub>>) outs(%7 : memref<4x32x16xbf16, #hivm.address_space<ub>>) permutation = [1, 0, 2]
    hivm.hir.set_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]
    %8 = hivm.hir.pointer_cast(%c24576_i64) : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %8 {effects = ["write", "read"], hivm.tightly_coupled_buffer = #hivm.tightly_coupled_buffer<1>} : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    %9 = hivm.hir.get_sub_block_idx -> i64
    %10 = arith.index_cast %9 : i64 to index
    %11 = arith.cmpi eq, %10, %c0 : index
    hivm.hir.wait_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]
    scf.if %11 {
      %collapse_shape = memref.collapse_shape %7 [[0, 1, 2]] : memref<4x32x16xbf16, #hivm.address_space<ub>> into memref<2048xbf16, #hivm.address_space<ub>>
      %collapse_shape_0 = memref.collapse_shape %8 [[0, 1, 2, 3]] : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>> into memref<2048xbf16, #hivm.address_space<cbuf>>
      hivm.hir.copy ins(%collapse_shape : memref<2048xbf16, #hivm.address_space<ub>>) outs(%collapse_shape_0 : memref<2048xbf16, #hivm.address_space<cbuf>>) {"inserted-copy"}
    } {limit_sub_block_id0}
    hivm.hir.sync_block_set[<VECTOR>, <PIPE_MTE3>, <PIPE_MTE1>] flag = 3
    %12 = hivm.hir.pointer_cast(%c12544_i64) : memref<32x128xf32, #hivm.address_space<ub>>
    annotation.mark %12 {effects = ["write", "read"], hivm.tightly_coupled_buffer = #hivm.tightly_coupled_buffer<2>} : memref<32x128xf32, #hivm.address_space<ub>>
    %13 = hivm.hir.pointer_cast(%c12544_i64) : memref<32x128xbf16, #hivm.address_space<ub>>
    hivm.hir.sync_block_wait[<VECTOR>, <PIPE_FIX>, <PIPE_V>] flag = 2
    call @attention_fused_3_outlined_vf_0(%5, %12, %13) {hivm.vector_function, no_inline} : (memref<32xf32, #hivm.address_space<ub>>, memref<32x128xf32, #hivm.address_space<ub>>, memref<32x128xbf16, #hivm.address_space<ub>>) -> ()
    hivm.hir.set_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]
    %reinterpret_cast = memref.reinterpret_cast %arg2 to offset: [0], sizes: [32, 128], strides: [128, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<32x128xbf16, strided<[128, 1]>, #hivm.address_space<gm>>
    hivm.hir.sync_block_wait[<VECTOR>, <PIPE_FIX>, <PIPE_MTE3>] flag = 1
    hivm.hir.wait_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]
    scf.if %11 {
      %collapse_shape = memref.collapse_shape %13 [[0, 1]] : memref<32x128xbf16, #hivm.address_space<ub>> into memref<4096xbf16, #hivm.address_space<ub>>
      %collapse_shape_0 = memref.collapse_shape %reinterpret_cast [[0, 1]] : memref<32x128xbf16, strided<[128, 1]>, #hivm.address_space<gm>> into memref<4096xbf16, strided<[1]>, #hivm.address_space<gm>>
      hivm.hir.store ins(%collapse_shape : memref<4096xbf16, #hivm.address_space<ub>>) outs(%collapse_shape_0 : memref<4096xbf16, strided<[1]>, #hivm.address_space<gm>>)
    } {limit_sub_block_id0}
    hivm.hir.set_ctrl true at ctrl[60]
    hivm.hir.pipe_barrier[<PIPE_ALL>]
    return
  }
}
