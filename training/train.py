"""Train `emoji-32`: an unconditional 32x32 DDPM on Fluent Emoji 3D, on a CPU, resumable at any time.

    python training/train.py --data src/ptq4dm/zoo/emoji_32/pictures.png --work /path/outside/the/repo --hours 2

Stopping it (Ctrl-C, SIGTERM, a lost machine) loses at most `--save-every` steps: the same command goes on.
With the work folder lost, `--start src/ptq4dm/zoo/emoji_32/pipeline` goes on from the committed EMA weights.
`--work` holds the optimizer checkpoint, the loss log and, as `pipeline/`, the EMA weights in diffusers format.

The schedule has no planned end, so that it can be stopped whenever the pictures are good: the learning rate
falls with the inverse square root of the step and the averaged weights follow a power law of the step
(Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2024, arXiv 2312.02696).
The loss is weighted by min(SNR, 5)/SNR (Hang et al., "Efficient Diffusion Training via Min-SNR Weighting
Strategy", 2023, arXiv 2303.09556).
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

SIZE = 32
EMA_GAMMA = 12.0
WARMUP_STEPS = 200
DECAY_FROM = 2000
SNR_CAP = 5.0


def load_pictures(sheet: Path) -> torch.Tensor:
    """All pictures of the sprite sheet, (N, 3, 32, 32) float32 in [-1, 1]."""
    names = sheet.with_suffix(".txt").read_text().split()
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    columns = pixels.shape[1] // SIZE
    tiles = [
        pixels[(i // columns) * SIZE : (i // columns + 1) * SIZE, (i % columns) * SIZE : (i % columns + 1) * SIZE]
        for i in range(len(names))
    ]
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def build_network() -> UNet2DModel:
    """The network: 64 to 192 channels, one residual block a level, attention at 8x8. 7.2 M parameters."""
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=64,
        norm_num_groups=32,
    )


def loss_of(network: UNet2DModel, scheduler: DDPMScheduler, x_0: torch.Tensor, generator: torch.Generator):
    """Weighted noise-prediction loss of one batch; the time-steps are stratified over [0, T)."""
    batch = x_0.shape[0]
    total = scheduler.config.num_train_timesteps
    strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    timesteps = (strata * total).long().clamp_(max=total - 1)
    noise = torch.randn(x_0.shape, generator=generator)
    x_t = scheduler.add_noise(x_0, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = network(x_t, timesteps).sample
    alphas = scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=SNR_CAP) / snr
    return (weight * (predicted.float() - noise).pow(2).mean(dim=(1, 2, 3))).mean()


def save(work: Path, state: dict, ema: UNet2DModel, scheduler: DDPMScheduler) -> None:
    """Write the checkpoint and the EMA pipeline; each replaces the last only once it is whole."""
    torch.save(state, work / "checkpoint.tmp")
    os.replace(work / "checkpoint.tmp", work / "checkpoint.pt")
    DDPMPipeline(unet=ema, scheduler=scheduler).save_pretrained(work / "pipeline")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="where there is no checkpoint: go on from this pipeline's weights")
    parser.add_argument("--hours", type=float, default=2.0, help="stop after so many hours of this run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    pictures = load_pictures(args.data)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=True)
    network, ema = build_network(), build_network()
    ema.load_state_dict(network.state_dict())
    ema.requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    step, hours_before = 0, 0.0
    checkpoint = args.work / "checkpoint.pt"
    if args.start and not checkpoint.exists():
        weights = UNet2DModel.from_pretrained(args.start / "unet").state_dict()
        network.load_state_dict(weights)
        ema.load_state_dict(weights)
        rows = [json.loads(line) for line in (args.start.parent / "loss.jsonl").read_text().splitlines()]
        step, hours_before = rows[-1]["step"], rows[-1]["hours"]
        print(f"going on from the EMA weights of step {step}, without the optimizer's state", flush=True)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        step, hours_before = state["step"], state["hours"]
        print(f"going on from step {step} ({hours_before:.2f} h)", flush=True)

    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    started, losses = time.time(), []
    order = torch.randperm(len(pictures), generator=generator)
    at = 0
    while not stop:
        if at + args.batch > len(order):
            order, at = torch.randperm(len(pictures), generator=generator), 0
        x_0 = pictures[order[at : at + args.batch]]
        at += args.batch
        rate = args.lr * min(1.0, (step + 1) / WARMUP_STEPS) / max(1.0, step / DECAY_FROM) ** 0.5
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(network, scheduler, x_0, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        keep = (1 - 1 / step) ** (EMA_GAMMA + 1)
        torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - keep)
        losses.append(loss.item())

        hours = (time.time() - started) / 3600
        done = bool(stop) or hours >= args.hours
        if step % args.save_every == 0 or done:
            row = {"step": step, "pictures": step * args.batch, "hours": round(hours_before + hours, 4),
                   "loss": round(sum(losses) / len(losses), 5), "lr": round(rate, 7)}  # fmt: skip
            with (args.work / "loss.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
            losses.clear()
            state = {"network": network.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
                     "generator": generator.get_state(), "step": step, "hours": hours_before + hours}  # fmt: skip
            save(args.work, state, ema, scheduler)
        if done:
            break


if __name__ == "__main__":
    main()
