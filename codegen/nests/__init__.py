"""Generic kernels as nests of our own, for chips whose cores work on tiles in a scratch memory.

    nodes     expressions: small, hashable, without TVM
    functions sine, cosine and the like in terms of simpler nodes
    linear    indices as sums of axes
    program   a kernel's structured TIR as steps: what one element is, over which axes
    schedule  which axes of a step are a tile, and which are rounds
"""
