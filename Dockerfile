# DisWM on a machine with an NVIDIA GPU, whose driver computes and draws (EGL):
#
#   docker build -t diswm .
#   docker run --gpus all --shm-size 2g -v "$PWD/runs:/diswm/runs" diswm \
#     --configs defaults dmc2gym --task dmc2gym_walker_walk
#
# The host needs the driver and the NVIDIA Container Toolkit. CUDA itself comes with PyTorch.
# Linted, and its packages are those of Debian 12; nobody has built it yet.
FROM python:3.12-slim-bookworm

# EGL draws; torch.compile calls a compiler; git tells a run which commit it is of.
# A release of Debian keeps one version of each.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ git libegl1 libgl1 libopengl0 \
 && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory /diswm

# Without this file EGL does not ask the driver; not every version of the Container Toolkit brings it.
RUN mkdir -p /usr/share/glvnd/egl_vendor.d \
 && printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}\n' \
    > /usr/share/glvnd/egl_vendor.d/10_nvidia.json
# Of the driver's libraries the Toolkit mounts those that are named here.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility

WORKDIR /diswm
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt \
 && pip install --no-cache-dir --no-deps dm_control -c constraints.txt
COPY . .

# Files in the mounted folder belong to this user: --build-arg UID=$(id -u).
ARG UID=1000
RUN useradd --uid "$UID" --create-home diswm && mkdir -p runs && chown diswm runs
USER $UID
ENTRYPOINT ["python", "dreamer.py"]
CMD ["--help"]
