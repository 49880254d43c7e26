// A CUDA device that is described but not there: what libtorch asks of one while it traces. Nothing runs on it.
//
// Loaded after libc10 and libtorch_cpu and before torch is imported: the hooks must be registered before they are first
// asked for. Three things stand in for libtorch_cuda and the driver:
//   - a device guard, which the autograd engine and Python indexing ask for the current device and stream;
//   - the CUDA hooks, which say whether there is a device and which cuDNN;
//   - the choice of a fused attention, which libtorch makes by compute capability before anything can be traced.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

namespace {

struct Described {
  int major = 9;
  int minor = 0;
  long cudnn = 0;
  bool rocm = false;
};
Described described;

using namespace c10;

Device first() {
  return Device(DeviceType::CUDA, 0);
}

Stream default_stream() {
  return Stream(Stream::DEFAULT, first());
}

struct DescribedGuard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return first(); }
  Device getDevice() const override { return first(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return default_stream(); }
  Stream getNewStream(Device, int) const override { return default_stream(); }
  Stream getDefaultStream(Device) const override { return default_stream(); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return default_stream(); }
  Stream exchangeStream(Stream) const override { return default_stream(); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, DescribedGuard)

// --- which fused attention libtorch_cuda would take ---------------------------------------------------------------
// The conditions of its documentation and error messages, for dense tensors; a size that is not known statically counts
// as not fitting.

using at::Tensor;

struct Attention {
  const Tensor& query;
  const Tensor& key;
  const Tensor& value;
  const std::optional<Tensor>& mask;
  double dropout;
  bool causal;
  bool grouped;

  int64_t size(const Tensor& t, int64_t axis) const {
    return t.sym_size(axis).maybe_as_int().value_or(-1);
  }
  bool trains() const {
    return at::GradMode::is_enabled() &&
        (query.requires_grad() || key.requires_grad() || value.requires_grad());
  }
  bool half() const {
    return query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16;
  }
  bool one_dtype() const {
    return query.scalar_type() == key.scalar_type() && key.scalar_type() == value.scalar_type();
  }
  bool four_axes() const {
    return query.dim() == 4 && key.dim() == 4 && value.dim() == 4;
  }
  bool heads_fit() const {
    const auto q = size(query, 1), k = size(key, 1), v = size(value, 1);
    if (size(query, 0) != size(key, 0) || size(query, 0) != size(value, 0)) return false;
    if (grouped) return k > 0 && k == v && q % k == 0;
    return q == k && q == v;
  }
  bool not_empty() const {
    return size(query, 2) != 0 && size(key, 2) != 0;
  }
  bool last_axis_dense(bool ignore_singleton) const {
    for (const Tensor* t : {&query, &key, &value}) {
      const bool singleton = ignore_singleton && size(*t, 3) == 1;
      if (!singleton && t->sym_stride(3).maybe_as_int().value_or(-1) != 1) return false;
    }
    return !mask || !mask->defined() || mask->sym_stride(-1).maybe_as_int().value_or(-1) == 1 ||
        mask->sym_size(-1).maybe_as_int().value_or(-1) == 1 || ignore_singleton;
  }
  bool mask_fits() const {
    if (!mask || !mask->defined()) return true;
    if (mask->requires_grad()) return false;
    auto fits = [&](int64_t axis, int64_t wanted) {
      const auto n = mask->sym_size(axis).maybe_as_int().value_or(-1);
      return n == 1 || n == wanted;
    };
    if (!fits(-2, size(query, 2)) || !fits(-1, size(key, 2))) return false;
    if (mask->dim() == 2) return true;
    return mask->dim() == 4 && fits(0, size(query, 0)) && fits(1, size(query, 1));
  }
};

bool flash(const Attention& a) {
  if (!at::globalContext().userEnabledFlashSDP() || !a.four_axes() || a.mask.has_value()) return false;
  const auto d = a.size(a.query, 3);
  if (d < 0 || d > (described.rocm ? 512 : 256) || d != a.size(a.key, 3) || d != a.size(a.value, 3)) return false;
  if (!described.rocm && described.major < 8) return false;
  const bool small_shared = (described.major == 8 && described.minor >= 6) || described.major == 12;
  if (!described.rocm && a.trains() && small_shared && !(d <= 192 || (a.dropout == 0 && d > 224))) return false;
  if (a.causal && a.size(a.query, 2) != a.size(a.key, 2)) return false;
  return a.half() && a.one_dtype() && a.heads_fit() && a.not_empty() && a.last_axis_dense(true);
}

bool efficient(const Attention& a) {
  if (!at::globalContext().userEnabledMemEfficientSDP() || !a.four_axes()) return false;
  const auto d = a.size(a.query, 3), dv = a.size(a.value, 3);
  const int64_t alignment = a.half() ? 8 : 4;
  if (d <= 0 || d != a.size(a.key, 3) || d % alignment || dv <= 0 || dv % alignment) return false;
  if (!(a.half() || a.query.scalar_type() == at::kFloat) || !a.one_dtype()) return false;
  return (!described.rocm || !a.grouped) && a.heads_fit() && a.not_empty() && a.last_axis_dense(false);
}

bool cudnn(const Attention& a) {
  if (described.rocm || described.cudnn < 90000 || !at::globalContext().userEnabledCuDNNSDP()) return false;
  if (!a.four_axes() || !a.half() || !a.one_dtype() || !a.mask_fits() || !a.heads_fit() || !a.not_empty()) return false;
  if (at::globalContext().deterministicAlgorithms() && !at::globalContext().deterministicAlgorithmsWarnOnly())
    return false;
  if (a.dropout > 0 && described.cudnn > 91100 && described.cudnn < 91400) return false;
  if (a.dropout * 16.0 != std::floor(a.dropout * 16.0) || !a.last_axis_dense(true)) return false;
  const auto d = a.size(a.query, 3), dv = a.size(a.value, 3);
  const bool datacenter = (described.major == 9 && !described.minor) || described.major == 10;
  int64_t most = 128;
  if (datacenter && described.cudnn > 92200) most = 256;
  else if (datacenter && described.cudnn >= 91100 && d == 192 && dv == 128) most = 192;
  if (d <= 0 || dv <= 0 || d > most || dv > most || d % 8 || dv % 8 || a.size(a.key, 2) == 1) return false;
  return a.dropout == 0 || a.size(a.query, 2) != 1;
}

bool prefers_cudnn() {
  const char* off = std::getenv("TORCH_CUDNN_SDPA_DEPRIORITIZED");
  return !(off && std::strcmp(off, "1") == 0) && !described.rocm && described.cudnn > 91500 &&
      (described.major == 9 || described.major == 10);
}

int64_t choose_attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask, double dropout,
    bool causal, std::optional<double>, bool grouped) {
  const Attention a{query, key, value, mask, dropout, causal, grouped};
  using at::SDPBackend;
  if (prefers_cudnn() && cudnn(a)) return static_cast<int64_t>(SDPBackend::cudnn_attention);
  if (flash(a)) return static_cast<int64_t>(SDPBackend::flash_attention);
  if (efficient(a)) return static_cast<int64_t>(SDPBackend::efficient_attention);
  if (!at::globalContext().userEnabledMathSDP() && cudnn(a)) return static_cast<int64_t>(SDPBackend::cudnn_attention);
  return static_cast<int64_t>(SDPBackend::math);
}

} // namespace

namespace at {

// Without `override`: which of these exist depends on the version of torch, and one that does not is merely not called.
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const { }
  bool hasCUDA() const { return true; }
  bool hasCUDART() const { return true; }
  bool hasROCM() const { return described.rocm; }
  bool hasCuDNN() const { return !described.rocm; }
  bool compiledWithCuDNN() const { return !described.rocm; }
  bool compiledWithMIOpen() const { return described.rocm; }
  bool supportsDilatedConvolutionWithCuDNN() const { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const { return true; }
  bool supportsBFloat16RNNWithCuDNN() const { return true; }
  long versionCuDNN() const { return described.cudnn; }
  long versionRuntimeCuDNN() const { return described.cudnn; }
  long versionMIOpen() const { return 30000; }
  double batchnormMinEpsilonCuDNN() const { return 1e-5; }
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const { return true; }
  int getNumGPUs() const { return 1; }
  c10::DeviceIndex deviceCount() const { return 1; }
  c10::DeviceIndex current_device() const { return 0; }
  c10::DeviceIndex getCurrentDevice() const { return 0; }
  void deviceSynchronize(c10::DeviceIndex) const { }
};

C10_REGISTER_CLASS_WITH_PRIORITY(CUDAHooksRegistry, CUDAHooks, c10::REGISTRY_PREFERRED, CUDAHooks)

} // namespace at

extern "C" {

// After torch was imported: a CUDA build has put its own guard and its own choice in the meantime.
void fuselab_describe(int major, int minor, long cudnn_version, int rocm) {
  described = {major, minor, cudnn_version, rocm != 0};
  static DescribedGuard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(&guard);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
}

}
