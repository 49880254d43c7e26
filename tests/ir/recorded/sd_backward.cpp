
#include <torch/csrc/inductor/cpp_prefix.h>
extern "C"  void  kernel(const float* in_ptr0,
                       const float* in_ptr1,
                       const float* in_ptr2,
                       const float* in_ptr3,
                       const bool* in_ptr4,
                       float* out_ptr0,
                       float* out_ptr1)
{
    std::atomic<int> inductor_cpu_integer_div_error{0};
    inductor_cpu_integer_div_error_flag = &inductor_cpu_integer_div_error;
    #pragma omp parallel
    {
        int tid = omp_get_thread_num();
        {
            std::unique_ptr<float []> buf_local_buffer_data_0 = std::make_unique<float []>(250L);
            float* local_buffer_data_0 = buf_local_buffer_data_0.get();
            #pragma omp for
            for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(64L); x0+=static_cast<int64_t>(1L))
            {
                {
                    float tmp_acc0 = 0;
                    at::vec::Vectorized<float> tmp_acc0_vec = at::vec::Vectorized<float>(0);
                    for(int64_t x1=static_cast<int64_t>(0L); x1<static_cast<int64_t>(250L); x1+=static_cast<int64_t>(16L))
                    {
                        {
                            if(C10_LIKELY(x1 >= static_cast<int64_t>(0) && x1 < static_cast<int64_t>(240L)))
                            {
                                auto tmp0 = at::vec::Vectorized<float>::loadu(in_ptr0 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(16));
                                auto tmp1 = in_ptr1[static_cast<int64_t>(x0)];
                                auto tmp5 = in_ptr2[static_cast<int64_t>(x0)];
                                auto tmp8 = at::vec::Vectorized<float>::loadu(in_ptr3 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(16));
                                auto tmp9 = at::vec::VecMask<float,1>::from(in_ptr4 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(16));
                                auto tmp2 = at::vec::Vectorized<float>(tmp1);
                                auto tmp3 = tmp0 - tmp2;
                                auto tmp4 = tmp3.exp();
                                auto tmp6 = at::vec::Vectorized<float>(tmp5);
                                auto tmp7 = tmp4 / tmp6;
                                auto tmp10 = tmp9.to<float,1>();
                                auto tmp11 = static_cast<float>(1.1111111111111112);
                                auto tmp12 = at::vec::Vectorized<float>(tmp11);
                                auto tmp13 = tmp10 * tmp12;
                                auto tmp14 = tmp8 * tmp13;
                                auto tmp15 = tmp14 * tmp7;
                                tmp7.store(local_buffer_data_0 + static_cast<int64_t>(x1));
                                tmp_acc0_vec = tmp_acc0_vec + tmp15;
                            }
                            if(C10_UNLIKELY(x1 >= static_cast<int64_t>(240L) && x1 < static_cast<int64_t>(250L)))
                            {
                                auto tmp0 = at::vec::Vectorized<float>::loadu(in_ptr0 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(10L));
                                auto tmp1 = in_ptr1[static_cast<int64_t>(x0)];
                                auto tmp5 = in_ptr2[static_cast<int64_t>(x0)];
                                auto tmp8 = at::vec::Vectorized<float>::loadu(in_ptr3 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(10L));
                                auto tmp9 = at::vec::VecMask<float,1>::from(in_ptr4 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(10L));
                                auto tmp2 = at::vec::Vectorized<float>(tmp1);
                                auto tmp3 = tmp0 - tmp2;
                                auto tmp4 = tmp3.exp();
                                auto tmp6 = at::vec::Vectorized<float>(tmp5);
                                auto tmp7 = tmp4 / tmp6;
                                auto tmp10 = tmp9.to<float,1>();
                                auto tmp11 = static_cast<float>(1.1111111111111112);
                                auto tmp12 = at::vec::Vectorized<float>(tmp11);
                                auto tmp13 = tmp10 * tmp12;
                                auto tmp14 = tmp8 * tmp13;
                                auto tmp15 = tmp14 * tmp7;
                                tmp7.store(local_buffer_data_0 + static_cast<int64_t>(x1), static_cast<int64_t>(10L));
                                tmp_acc0_vec = sum_masked_reduce(tmp_acc0_vec, tmp15, static_cast<int64_t>(10L));
                            }
                        }
                    }
                    tmp_acc0 = tmp_acc0 + at::vec::vec_reduce_all<float, 1>([](at::vec::Vectorized<float>& x, at::vec::Vectorized<float>& y) { return x + y; }, tmp_acc0_vec);
                    out_ptr0[static_cast<int64_t>(x0)] = static_cast<float>(tmp_acc0);
                }
                for(int64_t x1=static_cast<int64_t>(0L); x1<static_cast<int64_t>(250L); x1+=static_cast<int64_t>(16L))
                {
                    {
                        if(C10_LIKELY(x1 >= static_cast<int64_t>(0) && x1 < static_cast<int64_t>(240L)))
                        {
                            auto tmp0 = at::vec::Vectorized<float>::loadu(local_buffer_data_0 + static_cast<int64_t>(x1), static_cast<int64_t>(16));
                            auto tmp2 = out_ptr0[static_cast<int64_t>(x0)];
                            auto tmp3 = at::vec::Vectorized<float>::loadu(in_ptr3 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(16));
                            auto tmp4 = at::vec::VecMask<float,1>::from(in_ptr4 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(16));
                            auto tmp1 = tmp0.neg();
                            auto tmp5 = tmp4.to<float,1>();
                            auto tmp6 = static_cast<float>(1.1111111111111112);
                            auto tmp7 = at::vec::Vectorized<float>(tmp6);
                            auto tmp8 = tmp5 * tmp7;
                            auto tmp9 = tmp3 * tmp8;
                            auto tmp10 = tmp9 * tmp0;
                            auto tmp11 = at::vec::Vectorized<float>(tmp2);
                            auto tmp12 = fmadd(tmp1, tmp11, tmp10);
                            tmp12.store(out_ptr1 + static_cast<int64_t>(x1 + 250L*x0));
                        }
                        if(C10_UNLIKELY(x1 >= static_cast<int64_t>(240L) && x1 < static_cast<int64_t>(250L)))
                        {
                            auto tmp0 = at::vec::Vectorized<float>::loadu(local_buffer_data_0 + static_cast<int64_t>(x1), static_cast<int64_t>(10L));
                            auto tmp2 = out_ptr0[static_cast<int64_t>(x0)];
                            auto tmp3 = at::vec::Vectorized<float>::loadu(in_ptr3 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(10L));
                            auto tmp4 = at::vec::VecMask<float,1>::from(in_ptr4 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(10L));
                            auto tmp1 = tmp0.neg();
                            auto tmp5 = tmp4.to<float,1>();
                            auto tmp6 = static_cast<float>(1.1111111111111112);
                            auto tmp7 = at::vec::Vectorized<float>(tmp6);
                            auto tmp8 = tmp5 * tmp7;
                            auto tmp9 = tmp3 * tmp8;
                            auto tmp10 = tmp9 * tmp0;
                            auto tmp11 = at::vec::Vectorized<float>(tmp2);
                            auto tmp12 = fmadd(tmp1, tmp11, tmp10);
                            tmp12.store(out_ptr1 + static_cast<int64_t>(x1 + 250L*x0), static_cast<int64_t>(10L));
                        }
                    }
                }
            }
        }
    }
    inductor_cpu_integer_div_error_flag = nullptr;
    inductor_cpu_throw_if_integer_div_error(inductor_cpu_integer_div_error);
}
