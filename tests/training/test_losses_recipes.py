"""Every shipped recipe's loss and augmentation fit its network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stemsplit.models.catalogue import find_architecture
from stemsplit.training.augment import augment, count_read, seed_step
from stemsplit.training.loader import count_excerpt
from stemsplit.training.losses import build_loss
from stemsplit.training.recipe_files import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_a_step_of_every_recipe(name: str) -> None:
    recipe = load_recipe(name)
    stems = recipe.model.stems or ("vocals", "drums", "bass", "other")
    kind = find_architecture(recipe.model.architecture)
    torch.manual_seed(0)
    model = kind(kind.Config.tiny(stems)).train()
    data = recipe.data if recipe.data.excerpt_s == 0 else replace(recipe.data, excerpt_s=0.3)
    config = recipe.loss
    excerpt = count_excerpt(model, data, centred=config.centred)
    batch = 0.3 * torch.randn(2, len(stems), 2, count_read(excerpt, recipe.augment))
    batch = augment(batch, recipe.augment, seed_step(0, 0, 0))
    measure = build_loss(replace(config, frames=min(config.frames, 32)))
    value = measure(model, batch.sum(1), batch)
    value.backward()
    assert torch.isfinite(value)
    assert value.item() > 0
    assert any(one.grad is not None for one in model.parameters())
