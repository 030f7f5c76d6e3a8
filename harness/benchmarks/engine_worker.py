"""What vLLM's workers tell of themselves: mixed into each of them, in whatever process it lives."""

from __future__ import annotations

from typing import Any


class EngineProbe:
    """Questions to a worker, asked by `collective_rpc`."""

    model_runner: Any

    def harness_bound_modules(self, adapter: int) -> int:
        """How many of the adapter's modules have their matrices in a layer of the model.

        Where the model packs matrices into one layer (qkv_proj, gate_up_proj), each counts.
        """
        manager = self.model_runner.lora_manager._adapter_manager
        lora = manager.get_adapter(adapter)
        if lora is None:
            return 0
        weights = (lora.get_lora(name) for name in manager.modules)
        parts = (w.lora_a if isinstance(w.lora_a, list) else [w.lora_a] for w in weights if w is not None)
        return sum(a is not None for a_of_layer in parts for a in a_of_layer)

    def harness_attention(self) -> str:
        """Names of the attention kernels, joined by `+` where layers differ."""
        backends = (getattr(m, "attn_backend", None) for m in self.model_runner.get_model().modules())
        return "+".join(sorted({b.get_name() for b in backends if b is not None})) or "none"
