"""A Llama-family model on tensors, and the texts that it is given.

llama.py         the forward pass over paged caches; rotary.py positions, weights.py its tensors
loading.py       from a folder of safetensors; model_config.py, model_folders.py which one
tokenizer.py     texts to tokens; texts.py what prompts say, and what was said so far

Refuses to know schedulers, block pools and clocks.
"""
