# Worker image for Dataflow and other portable runners. PyPI's torch brings CUDA along, so that a GPU
# needs no more than the driver of its machine: docker build --tag IMAGE .

FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:3.11-slim
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY . /opt/clip-beam
# Triton, which torch compiles with for GPUs, calls a C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# Workers must run the Beam that launches the job: install that version where it is launched, too.
RUN pip install --no-cache-dir "apache-beam[gcp]==2.77.0" "/opt/clip-beam[filter,heif,language,openai,ray,report,s3,wordnet]"
ENTRYPOINT ["/opt/apache/beam/boot"]
