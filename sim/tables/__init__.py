"""Readers of measurements that other projects publish: their forms in, tables of kernels out.

    aiconfigurator   NVIDIA's measured operators, a wheel of the package index
    llmservingsim    layer profiles of vLLM, a folder for each GPU and model
    vidur            profiles of compute, attention and network, CSV files

Each owns the form of one project and says what it leaves out, so that nothing is lost in silence. Refuses to
fit anything (`sim.cost.fitting`) and to know hardware files (`sim.config`).
"""
