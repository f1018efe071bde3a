#!/usr/bin/env bash
# Run the numerical tests as other processors compute: bash tests/cpus.sh python -m pytest [...]
# MKL (products of matrices) and oneDNN (convolutions, activations, softmax) choose their code by the
# processor's instruction sets, unless these variables say which; with the last setting
# `accelerate` leaves Paddle's own operations in place.
set -u
trap 'exit 130' INT
settings=(
  "" # as the processor is
  "ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2"
  "MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41"
  "MKL_DEBUG_CPU_TYPE=0"
  "MKL_DEBUG_CPU_TYPE=5"
  "PASSL_CPU_OPS=0 FLAGS_use_stride_kernel=1"
)
numerical=(tests/golden tests/contract tests/unit/{accelerate,analysis,data,deploy,engine,evaluation,modeling,optim})

# What the caller has set would count in all of them.
unset ONEDNN_MAX_CPU_ISA MKL_ENABLE_INSTRUCTIONS MKL_CBWR MKL_DEBUG_CPU_TYPE PASSL_CPU_OPS \
  FLAGS_use_stride_kernel
failed=()
for setting in "${settings[@]}"; do
  echo "== ${setting:-the default}"
  # shellcheck disable=SC2086 (several variables)
  env $setting "$@" "${numerical[@]}" || failed+=("${setting:-the default}")
done
[ ${#failed[@]} -eq 0 ] && exit
printf 'failed under: %s\n' "${failed[@]}" >&2
exit 1
