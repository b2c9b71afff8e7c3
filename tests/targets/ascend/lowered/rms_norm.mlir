#map = affine_map<(d0)[s0] -> (d0 + s0)>
#map1 = affine_map<(d0) -> (d0, 0)>
#map2 = affine_map<(d0) -> (0, d0)>
#map3 = affine_map<()[s0] -> (s0 * 1280)>
module attributes {dlti.target_system_spec = #dlti.target_system_spec<"NPU" : #hacc.target_device_spec<#dlti.dl_entry<"AI_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"CUBE_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"VECTOR_CORE_COUNT", 64 : i32>, #dlti.dl_entry<"UB_SIZE", 2031616 : i32>, #dlti.dl_entry<"L1_SIZE", 4194304 : i32>, #dlti.dl_entry<"L0A_SIZE", 524288 : i32>, #dlti.dl_entry<"L0B_SIZE", 524288 : i32>, #dlti.dl_entry<"L0C_SIZE", 2097152 : i32>, #dlti.dl_entry<"UB_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L1_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L0C_ALIGN_SIZE", 4096 : i32>, #dlti.dl_entry<"MINIMAL_D_CACHE_SIZE", 262144 : i32>, #dlti.dl_entry<"MAXIMUM_D_CACHE_SIZE", 983040 : i32>, #dlti.dl_entry<"ARCH", "dav-c310">>>, hacc.target = #hacc.target<"Ascend950PR_9589">, hivm.module_core_type = #hivm.module_core_type<AIV>} {
  func.func @rms_norm_fused_0_outlined_vf_0(%arg0: memref<4x320xbf16, #hivm.address_space<ub>>, %arg1: memref<4x320xf32, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant 0.000000e+00 : bf16
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c64 = arith.constant 64 : index
    %c320 = arith.constant 320 : index
    %c0 = arith.constant 0 : index
    scf.for %arg2 = %c0 to %c4 step %c1 {
      scf.for %arg3 = %c0 to %c320 step %c64 {
        %subview = memref.subview %arg0[%arg2, %arg3] [1, 64] [1, 1] : memref<4x320xbf16, #hivm.address_space<ub>> to memref<1x64xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_0 = memref.subview %arg1[%arg2, %arg3] [1, 64] [1, 1] : memref<4x320xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[320, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_1 = memref.subview %subview[0, 0] [1, 64] [1, 1] : memref<1x64xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xbf16, #map, #hivm.address_space<ub>>
        %0 = vector.transfer_read %subview_1[%c0], %cst {in_bounds = [true]} : memref<64xbf16, #map, #hivm.address_space<ub>>, vector<64xbf16>
        %1 = arith.extf %0 {enable_saturate = false, round_mode = #hfusion.round_mode<rint>, unsigned_mode = #hfusion.unsigned_mode<si2si>} : vector<64xbf16> to vector<64xf32>
        %subview_2 = memref.subview %subview_0[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[320, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
        vector.transfer_write %1, %subview_2[%c0] {in_bounds = [true]} : vector<64xf32>, memref<64xf32, #map, #hivm.address_space<ub>>
      }
    }
    return
  }
  func.func @rms_norm_fused_0_outlined_vf_1(%arg0: memref<4x320xf32, #hivm.address_space<ub>>, %arg1: memref<4xf32, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant dense<0.000000e+00> : vector<64xf32>
    %cst_0 = arith.constant 0.000000e+00 : f32
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c64 = arith.constant 64 : index
    %c320 = arith.constant 320 : index
    %c0 = arith.constant 0 : index
    scf.for %arg2 = %c0 to %c4 step %c1 {
      %subview = memref.subview %arg1[%arg2] [1] [1] : memref<4xf32, #hivm.address_space<ub>> to memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>
      %0 = scf.for %arg3 = %c0 to %c320 step %c64 iter_args(%arg4 = %cst) -> (vector<64xf32>) {
        %subview_2 = memref.subview %arg0[%arg2, %arg3] [1, 64] [1, 1] : memref<4x320xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[320, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_3 = memref.subview %subview_2[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[320, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
        %7 = vector.transfer_read %subview_3[%c0], %cst_0 {in_bounds = [true]} : memref<64xf32, #map, #hivm.address_space<ub>>, vector<64xf32>
        %8 = arith.mulf %7, %7 : vector<64xf32>
        %9 = arith.addf %arg4, %8 {reductionOp} : vector<64xf32>
        scf.yield %9 : vector<64xf32>
      } {reductionLoop}
      %subview_1 = memref.subview %subview[0] [1] [1] : memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>> to memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>
      %1 = vector.transfer_read %subview_1[], %cst_0 : memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>, vector<f32>
      %2 = vector.shape_cast %1 : vector<f32> to vector<1xf32>
      %3 = builtin.unrealized_conversion_cast %2 : vector<1xf32> to f32
      %4 = vector.reduction <add>, %0, %3 {withoutInitMergeOp} : vector<64xf32> into f32
      %5 = builtin.unrealized_conversion_cast %4 : f32 to vector<1xf32>
      %6 = vector.shape_cast %5 : vector<1xf32> to vector<f32>
      vector.transfer_write %6, %subview_1[] : vector<f32>, memref<f32, strided<[], offset: ?>, #hivm.address_space<ub>>
    }
    return
  }
  func.func @rms_norm_fused_1_outlined_vf_0(%arg0: memref<4xf32, #hivm.address_space<ub>>, %arg1: memref<4x320xf32, #hivm.address_space<ub>>, %arg2: memref<320xbf16, #hivm.address_space<ub>>, %arg3: memref<4x320xbf16, #hivm.address_space<ub>>) attributes {hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function, no_inline} {
    %cst = arith.constant dense<1.000000e+00> : vector<64xf32>
    %cst_0 = arith.constant dense<9.99999997E-7> : vector<64xf32>
    %cst_1 = arith.constant dense<3.125000e-03> : vector<64xf32>
    %cst_2 = arith.constant 0.000000e+00 : bf16
    %cst_3 = arith.constant 0.000000e+00 : f32
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c64 = arith.constant 64 : index
    %c320 = arith.constant 320 : index
    %c0 = arith.constant 0 : index
    scf.for %arg4 = %c0 to %c4 step %c1 {
      %subview = memref.subview %arg0[%arg4] [1] [1] : memref<4xf32, #hivm.address_space<ub>> to memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>
      scf.for %arg5 = %c0 to %c320 step %c64 {
        %subview_4 = memref.subview %arg1[%arg4, %arg5] [1, 64] [1, 1] : memref<4x320xf32, #hivm.address_space<ub>> to memref<1x64xf32, strided<[320, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_5 = memref.subview %arg2[%arg5] [64] [1] : memref<320xbf16, #hivm.address_space<ub>> to memref<64xbf16, strided<[1], offset: ?>, #hivm.address_space<ub>>
        %subview_6 = memref.subview %arg3[%arg4, %arg5] [1, 64] [1, 1] : memref<4x320xbf16, #hivm.address_space<ub>> to memref<1x64xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<ub>>
        %subview_7 = memref.subview %subview_4[0, 0] [1, 64] [1, 1] : memref<1x64xf32, strided<[320, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xf32, #map, #hivm.address_space<ub>>
        %0 = vector.transfer_read %subview_7[%c0], %cst_3 {in_bounds = [true]} : memref<64xf32, #map, #hivm.address_space<ub>>, vector<64xf32>
        %1 = vector.transfer_read %subview[%c0], %cst_3 {in_bounds = [true, true], permutation_map = #map1} : memref<1xf32, strided<[1], offset: ?>, #hivm.address_space<ub>>, vector<1x64xf32>
        %2 = vector.transfer_read %subview_5[%c0], %cst_2 {in_bounds = [true, true], permutation_map = #map2} : memref<64xbf16, strided<[1], offset: ?>, #hivm.address_space<ub>>, vector<1x64xbf16>
        %3 = vector.shape_cast %2 : vector<1x64xbf16> to vector<64xbf16>
        %4 = arith.extf %3 {enable_saturate = false, round_mode = #hfusion.round_mode<rint>, unsigned_mode = #hfusion.unsigned_mode<si2si>} : vector<64xbf16> to vector<64xf32>
        %5 = vector.shape_cast %1 : vector<1x64xf32> to vector<64xf32>
        %6 = arith.mulf %5, %cst_1 : vector<64xf32>
        %7 = arith.addf %6, %cst_0 : vector<64xf32>
        %8 = math.sqrt %7 : vector<64xf32>
        %9 = arith.divf %cst, %8 : vector<64xf32>
        %10 = arith.mulf %0, %9 : vector<64xf32>
        %11 = arith.mulf %10, %4 : vector<64xf32>
        %12 = arith.truncf %11 {enable_saturate = false, round_mode = #hfusion.round_mode<rint>, unsigned_mode = #hfusion.unsigned_mode<si2si>} : vector<64xf32> to vector<64xbf16>
        %subview_8 = memref.subview %subview_6[0, 0] [1, 64] [1, 1] : memref<1x64xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<ub>> to memref<64xbf16, #map, #hivm.address_space<ub>>
        vector.transfer_write %12, %subview_8[%c0] {in_bounds = [true]} : vector<64xbf16>, memref<64xbf16, #map, #hivm.address_space<ub>>
      }
    }
    return
  }
  func.func @rms_norm(%arg0: memref<?xbf16, #hivm.address_space<gm>>, %arg1: memref<?xbf16, #hivm.address_space<gm>>, %arg2: memref<?xbf16, #hivm.address_space<gm>>, %arg3: i32, %arg4: i32, %arg5: i32) attributes {func_dyn_memref_args = dense<[true, true, true, false, false, false]> : vector<6xi1>, hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vf_mode = #hivm.vf_mode<SIMD>} {
    %c8320_i64 = arith.constant 8320 : i64
    %c3200_i64 = arith.constant 3200 : i64
    %c2560_i64 = arith.constant 2560 : i64
    %c0_i64 = arith.constant 0 : i64
    hivm.hir.set_ctrl false at ctrl[60]
    hivm.hir.set_ctrl true at ctrl[48]
    %0 = arith.muli %arg3, %arg4 : i32
    %1 = arith.muli %0, %arg5 : i32
    annotation.mark %1 {logical_block_num} : i32
    %2 = hivm.hir.get_block_idx -> i64
    %3 = arith.trunci %2 : i64 to i32
    %4 = arith.remsi %3, %arg3 : i32
    %5 = arith.index_cast %4 : i32 to index
    %6 = affine.apply #map3()[%5]
    %reinterpret_cast = memref.reinterpret_cast %arg0 to offset: [%6], sizes: [4, 320], strides: [320, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<4x320xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<gm>>
    %7 = hivm.hir.pointer_cast(%c0_i64) : memref<4x320xbf16, #hivm.address_space<ub>>
    annotation.mark %7 {hivm.skip_stride_align_for_vload = #hivm.skip_stride_align_for_vload} : memref<4x320xbf16, #hivm.address_space<ub>>
    %collapse_shape = memref.collapse_shape %reinterpret_cast [[0, 1]] : memref<4x320xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<gm>> into memref<1280xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>
    %collapse_shape_0 = memref.collapse_shape %7 [[0, 1]] : memref<4x320xbf16, #hivm.address_space<ub>> into memref<1280xbf16, #hivm.address_space<ub>>
    hivm.hir.load ins(%collapse_shape : memref<1280xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>) outs(%collapse_shape_0 : memref<1280xbf16, #hivm.address_space<ub>>) eviction_policy = <EvictFirst> core_type = <VECTOR>
    hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_V>, <EVENT_ID1>]
    %reinterpret_cast_1 = memref.reinterpret_cast %arg1 to offset: [0], sizes: [320], strides: [1] : memref<?xbf16, #hivm.address_space<gm>> to memref<320xbf16, strided<[1]>, #hivm.address_space<gm>>
    %8 = hivm.hir.pointer_cast(%c2560_i64) : memref<320xbf16, #hivm.address_space<ub>>
    annotation.mark %8 {hivm.skip_stride_align_for_vload = #hivm.skip_stride_align_for_vload} : memref<320xbf16, #hivm.address_space<ub>>
    hivm.hir.load ins(%reinterpret_cast_1 : memref<320xbf16, strided<[1]>, #hivm.address_space<gm>>) outs(%8 : memref<320xbf16, #hivm.address_space<ub>>) eviction_policy = <EvictFirst> core_type = <VECTOR>
    hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_V>, <EVENT_ID0>]
    %9 = hivm.hir.pointer_cast(%c3200_i64) : memref<4x320xf32, #hivm.address_space<ub>>
    hivm.hir.wait_flag[<PIPE_MTE2>, <PIPE_V>, <EVENT_ID1>]
    call @rms_norm_fused_0_outlined_vf_0(%7, %9) {hivm.vector_function, no_inline} : (memref<4x320xbf16, #hivm.address_space<ub>>, memref<4x320xf32, #hivm.address_space<ub>>) -> ()
    %10 = hivm.hir.pointer_cast(%c8320_i64) : memref<4xf32, #hivm.address_space<ub>>
    call @rms_norm_fused_0_outlined_vf_1(%9, %10) {hivm.vector_function, no_inline} : (memref<4x320xf32, #hivm.address_space<ub>>, memref<4xf32, #hivm.address_space<ub>>) -> ()
    %11 = hivm.hir.pointer_cast(%c3200_i64) : memref<4x320xbf16, #hivm.address_space<ub>>
    hivm.hir.wait_flag[<PIPE_MTE2>, <PIPE_V>, <EVENT_ID0>]
    call @rms_norm_fused_1_outlined_vf_0(%10, %9, %8, %11) {hivm.vector_function, no_inline} : (memref<4xf32, #hivm.address_space<ub>>, memref<4x320xf32, #hivm.address_space<ub>>, memref<320xbf16, #hivm.address_space<ub>>, memref<4x320xbf16, #hivm.address_space<ub>>) -> ()
    hivm.hir.set_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]
    %reinterpret_cast_2 = memref.reinterpret_cast %arg2 to offset: [%6], sizes: [4, 320], strides: [320, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<4x320xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<gm>>
    %collapse_shape_3 = memref.collapse_shape %11 [[0, 1]] : memref<4x320xbf16, #hivm.address_space<ub>> into memref<1280xbf16, #hivm.address_space<ub>>
    %collapse_shape_4 = memref.collapse_shape %reinterpret_cast_2 [[0, 1]] : memref<4x320xbf16, strided<[320, 1], offset: ?>, #hivm.address_space<gm>> into memref<1280xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>
    hivm.hir.wait_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]
    hivm.hir.store ins(%collapse_shape_3 : memref<1280xbf16, #hivm.address_space<ub>>) outs(%collapse_shape_4 : memref<1280xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>)
    hivm.hir.set_ctrl true at ctrl[60]
    hivm.hir.pipe_barrier[<PIPE_ALL>]
    return
  }
}
