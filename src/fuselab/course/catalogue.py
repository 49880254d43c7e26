"""Names and descriptions of the mistakes that ``check`` recognises.

A description says what the mistake does and where to look, never the line to write.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MISTAKES", "Mistake"]


class Mistake(NamedTuple):
    """What is shown of a mistake."""

    title: str
    says: str


MISTAKES: dict[str, Mistake] = {
    # memory
    "store_without_mask": Mistake(
        "a store without its mask", "memory beyond the end of a result was overwritten; who may write there?"
    ),
    "load_without_mask": Mistake(
        "a load without its mask", "numbers that lie in memory behind the row are part of the result"
    ),
    "never_stored": Mistake(
        "a result that is never stored", "it holds, or is made of, memory that nothing was stored in"
    ),
    "ends_too_early": Mistake(
        "a grid, a loop or a block that does not reach the end",
        "the last elements were never written; what happens when the size is no multiple of the block?",
    ),
    "places_left_out": Mistake(
        "places that no program writes to", "compare which elements a program covers with how many programs there are"
    ),
    "assumed_contiguous": Mistake(
        "rows taken to lie one right after the other",
        "it is right for a whole matrix and wrong for a slice of one; how far apart are two rows?",
    ),
    "strides_swapped": Mistake("row and column strides mixed up", "rows were read as columns"),
    "off_by_one": Mistake("an offset that is off by one", "each element has the value of its right neighbour"),
    "off_by_minus_one": Mistake("an offset that is off by one", "each element has the value of its left neighbour"),
    "first_row_everywhere": Mistake(
        "every program reading the first row", "all rows hold the result of row 0; what tells the programs apart?"
    ),
    "results_swapped": Mistake("two results in each other's place", "each holds what belongs into the other"),
    "same_operand_twice": Mistake("one operand read twice", "the other operand has no influence on the result"),
    # arithmetic of any kind
    "wrong_sign": Mistake("a wrong sign", "every element is the negative of what it should be"),
    "unchanged_input": Mistake("an input stored unchanged", "the result is the input"),
    "zeros": Mistake("a result that stays zero", "was anything added to it, or stored?"),
    "sixteen_bits": Mistake(
        "computing or accumulating in 16 bits",
        "float32 inputs come out right, 16-bit ones do not; in which dtype does the arithmetic happen?",
    ),
    "wrong_operation": Mistake("another arithmetic operation", "the operands are right, what is done with them is not"),
    "factor_ignored": Mistake("a factor that is not applied", "the factor has no influence on the result"),
    "tail_dropped": Mistake("a last block that is left out", "rows whose width is a multiple of the block are right"),
    # activations
    "tanh_for_erf": Mistake(
        "the tanh approximation of GELU", "it is close to the exact GELU, but not equal: which one is asked for?"
    ),
    "erf_argument": Mistake("erf of the wrong argument", "the normal distribution's spread goes into the argument"),
    "half_missing": Mistake("a factor of two", "a half has been lost"),
    "bias_ignored": Mistake("a bias that is not added", "the bias has no influence on the result"),
    "bias_after": Mistake("the bias added after the activation", "where in the formula does it stand?"),
    "sigmoid_alone": Mistake("the sigmoid in place of SiLU", "one factor is missing"),
    "gates_swapped": Mistake("gate and value in each other's place", "the activation belongs to the other half"),
    "gate_ignored": Mistake("the gate without the value", "one half has no influence on the result"),
    "gelu_for_silu": Mistake("GELU in place of SiLU", "the curves are alike, but not equal"),
    "relu_for_silu": Mistake("ReLU in place of SiLU", "negative inputs have no influence on the result"),
    # reductions
    "mean_for_sum": Mistake("a mean in place of a sum", "the result is too small by the number of summands"),
    "sum_for_mean": Mistake("a sum in place of a mean", "the number of columns is missing somewhere"),
    "max_for_sum": Mistake("a maximum in place of a sum", "the result is the row's largest element"),
    "squares_for_sum": Mistake("a sum of squares in place of a sum", "elements are squared on the way"),
    "first_block_only": Mistake("the first block alone", "elements beyond the first block have no influence"),
    "last_block_only": Mistake(
        "the last block alone", "what the earlier rounds of the loop found was overwritten, not added to"
    ),
    "block_for_width": Mistake(
        "dividing by the size of the block", "the block is larger than the row: which of its elements count?"
    ),
    "one_program_only": Mistake(
        "the sum of one program alone", "each program has its share of the rows; who adds the shares up?"
    ),
    "last_row_only": Mistake(
        "a weight gradient of the last row of each program", "each row's contribution overwrites the one before"
    ),
    "product_missing": Mistake(
        "a weight gradient without the normalised input", "that is the gradient of a bias, not of a weight"
    ),
    # softmax
    "max_not_subtracted": Mistake(
        "a softmax without subtracting the maximum", "large inputs overflow the exponential; small ones come out right"
    ),
    "padding_counts": Mistake(
        "padding that takes part in the softmax",
        "the block's elements beyond the row were loaded as something whose exponential is not zero",
    ),
    "not_normalised": Mistake("exponentials that are not divided by their sum", "the rows do not sum to 1"),
    "wrong_axis": Mistake("reducing along the wrong axis", "columns sum to 1, rows do not"),
    "not_rescaled": Mistake(
        "a running sum that is not rescaled",
        "when a later block holds a new maximum, the sum so far was taken relative to the old one",
    ),
    "maximum_of_last_block": Mistake(
        "the maximum of the last block in place of the row's", "an earlier block held a larger element"
    ),
    "log_softmax": Mistake("the logarithm of the softmax", "it is normalised, but not exponentiated"),
    # dropout
    "not_scaled": Mistake("dropout that is not rescaled", "what is kept has to make up for what is dropped"),
    "scaled_by_p": Mistake("dropout divided by the wrong probability", "divided by how many are dropped, not kept"),
    "mask_inverted": Mistake("a mask the wrong way round", "what should be dropped is kept"),
    "mask_repeats": Mistake(
        "one dropout mask for every row or block", "the random numbers repeat: what is their offset made of?"
    ),
    "seed_ignored": Mistake("a seed that has no influence", "another seed gives the same mask"),
    "no_dropout": Mistake("no dropout at all", "nothing is dropped"),
    "mask_not_replayed": Mistake(
        "a backward without the forward's dropout mask", "what was dropped gets a gradient as if it had been kept"
    ),
    "other_mask": Mistake(
        "a backward with another mask than the forward's", "seed and offset have to be the same in both"
    ),
    "masked_at_the_end": Mistake(
        "the mask applied to the gradient of the input",
        "it belongs to the gradient of the probabilities, before the sum",
    ),
    "dropped_before_sum": Mistake(
        "dropout before the normalisation", "what is kept sums to 1: the sum has left out what was dropped"
    ),
    # normalisation
    "eps_forgotten": Mistake("a normalisation without eps", "rows of small numbers come out too large"),
    "eps_outside_root": Mistake("eps outside of the root", "small rows come out wrong, large ones nearly right"),
    "sample_variance": Mistake(
        "the sample variance in place of the population's", "the sum of squares is divided by one less"
    ),
    "padding_in_variance": Mistake(
        "padding that counts in the variance", "zeros beyond the row are not zero any more once the mean is subtracted"
    ),
    "not_centred": Mistake("a mean that is not subtracted", "rows keep their mean"),
    "centred": Mistake("a mean that is subtracted", "RMSNorm does not centre: that is LayerNorm"),
    "not_squared": Mistake("the mean in place of the mean of squares", "the elements are not squared"),
    "root_missing": Mistake("a root that is missing", "divided by the variance, not by its root"),
    "weight_ignored": Mistake("a weight that is not applied", "the weight has no influence on the result"),
    "weight_plus_one": Mistake("a weight counted from one", "that is Gemma's convention: 1 + weight"),
    "residual_ignored": Mistake("a residual that is not added", "the residual has no influence on the result"),
    "residual_not_normalised": Mistake(
        "the residual added for one result alone", "y is the norm of x, not of the sum of x and the residual"
    ),
    "residual_not_stored": Mistake("the old residual in place of the sum", "the total has nothing of x in it"),
    "not_scaled_by_rstd": Mistake("a gradient without the row's scale", "the whole is off by the factor of each row"),
    # gradients
    "projection_missing": Mistake(
        "a gradient with a term missing",
        "the row's scale depends on every element: what changes when one of them changes it?",
    ),
    "projection_not_averaged": Mistake(
        "a sum over the row where its mean belongs", "the correction is too large by the number of columns"
    ),
    "mean_term_missing": Mistake(
        "a gradient with a term missing", "the row's mean depends on every element; the rows of dx should sum to 0"
    ),
    "activation_term_missing": Mistake(
        "a gradient with a term missing", "the activation is a product of two functions of x: both change"
    ),
    "sigmoid_slope": Mistake("the derivative of the sigmoid alone", "the activation is x times a sigmoid: both change"),
    "activation_ignored": Mistake(
        "an activation that is left out",
        "a result is what it would be without the activation; in a backward, a factor is missing",
    ),
    "sum_missing": Mistake(
        "a gradient with a term missing", "a softmax row sums to 1, so that its gradient sums to 0; this one does not"
    ),
    "probabilities_missing": Mistake("a gradient without the factor of the softmax itself", "one factor is missing"),
    "incoming_ignored": Mistake("a gradient without the incoming one", "dy has no influence on the result"),
    # block sizes
    "power_below": Mistake("the power of two below", "the block is smaller than the row: what becomes of the rest?"),
    "power_above": Mistake("a power of two too far", "a row that fits exactly gets a block of twice its size"),
    "not_a_power": Mistake("a block that is no power of two", "tl.arange takes powers of two alone"),
    "no_upper_limit": Mistake("no upper limit", "the widest rows do not fit into the registers of a program"),
    "no_lower_limit": Mistake("no lower limit", "the smallest block has no warp left"),
    "warps_of_the_row": Mistake("warps counted from the row, not from the block", "num_warps is a power of two"),
}
"""By name. The names are stable: tests and the course's pages use them."""
