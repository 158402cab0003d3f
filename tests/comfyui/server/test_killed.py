"""A search on a live server that is killed with -9, started again, ends with the mask of one that was not stopped."""

from __future__ import annotations

import os
import time

import pytest
from support.prompts import node
from support.server import events, kill_once_kept

STEPS = 150


def finding(name: str) -> dict:
    return {
        "world": node("ConesToyWorld"),
        "subject": node("ConesToySubject", subject="sks", pictures=2, seed=0),
        "latents": node("VAEEncode", pixels=["subject", 0], vae=["world", 2]),
        "caption": node("ConesEncodePrompt", clip=["world", 1], text=["subject", 1], concepts="sks cat"),
        "find": node(
            "ConesFindConceptNeurons", model=["world", 0], subject_latents=["latents", 0],
            subject_conditioning=["caption", 0], identifier="sks", class_word="cat", method="learned",
            targets="text K+V", density=0.01, steps=STEPS, batch=2, prior_weight=1.0, seed=1, where="own tokens",
        ),
        "save": node("ConesSaveConceptMask", concept_mask=["find", 0], name=name, if_exists="keep both"),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="halts a process by a signal")
def test_a_killed_search_resumes_and_ends_alike(start_server, tmp_path):
    states, masks = tmp_path / "user" / "cones-searches", tmp_path / "models" / "concept_masks"
    with start_server(tmp_path) as killed, events(killed) as messages:
        killed.queue(finding("resumed"))
        for kind, data in messages:
            if kind == "progress" and data.get("node") == "find" and data["value"] > 2:
                break
        assert 2 <= kill_once_kept(killed.process, states, seed=2) < STEPS
    assert not list(masks.iterdir())
    with start_server(tmp_path) as restarted:
        restarted.run(finding("resumed"))
        assert not states.exists()
        time.sleep(2)  # until the host's worker sleeps: it misses a /free while it is busy
        restarted.request("/free", {"unload_models": True, "free_memory": True})
        time.sleep(2)  # until it has forgotten its results
        values = []
        with events(restarted) as messages:
            prompt_id = restarted.queue(finding("whole"))
            for kind, data in messages:
                if data.get("prompt_id") != prompt_id:
                    continue  # the end of the prompt before
                if kind == "progress" and data.get("node") == "find":
                    values.append(data["value"])
                if kind == "executing" and data.get("node") is None:
                    break
        assert restarted.wait(prompt_id).status == "success" and min(values) < 8  # of 1000: from its first step
    assert (masks / "resumed.safetensors").read_bytes() == (masks / "whole.safetensors").read_bytes()
