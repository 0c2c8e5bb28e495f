# Trainings and the inference engine in one image, for NVIDIA GPUs: PyTorch with CUDA, and vLLM in an environment of its own. About 20 GB.
#   docker build -f deploy/train.Dockerfile -t prefloop-train .
#   docker run --gpus all --ipc=host -v "$PWD:/prefloop" prefloop-train dpo --model MODEL --data pairs.jsonl --out runs/dpo
FROM python:3.11-slim-trixie
# curl asks whether the engine is up; gcc compiles the kernels of Triton.
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl gcc libc6-dev postgresql-client \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY prefloop prefloop
RUN pip install --no-cache-dir -c constraints.txt '.[data,metrics,postgres,quantize]'
ENV PREFLOOP_ENGINE=/opt/engine PYTHONUNBUFFERED=1
RUN prefloop engine install --folder /opt/engine --kind cuda
WORKDIR /prefloop
ENTRYPOINT ["prefloop"]
