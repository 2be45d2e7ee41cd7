# The server on GPUs, over vLLM's published image of the version that we pin.
#
#     docker build -t mavis-server .
#     docker run --gpus all -p 8000:8000 mavis-server                            the embedded model
#     docker run --gpus all -p 8000:8000 mavis-server MODEL --values DIR [...]   own models
#
# Caches (models, compiled kernels) lie in /home/vllm/.cache; mount a volume there to keep them.
FROM vllm/vllm-openai:v0.32.0

LABEL org.opencontainers.image.title="mavis-server" \
      org.opencontainers.image.description="One base LLM, many alignments: answers steered by each request's weights" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

WORKDIR /opt/mavis

# gpu.txt holds only what vLLM's image does not bring; --no-deps keeps every version that the image was built with.
COPY requirements/gpu.txt requirements/gpu.txt
RUN uv pip install --system --no-cache --no-deps -r requirements/gpu.txt

COPY pyproject.toml LICENSE ./
COPY valuemodels valuemodels
COPY training training
COPY server server
RUN uv pip install --system --no-cache --no-deps .

# vLLM's own unprivileged user; group 0 may write below /home/vllm.
USER 2000:0
ENV HOME=/home/vllm \
    MAVIS_CACHE_DIR=/home/vllm/.cache/mavis
WORKDIR /home/vllm

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["mavis", "serve", "--host", "0.0.0.0"]
