"""What `from lm336 import ...` gives: the package's top-level names, and the module of each.

This file is their one definition. `__init__.py` reads it to find a name when it is first asked
for; editors and type checkers read it as it stands.
"""

from .adamw import SGD as SGD
from .adamw import AdamW as AdamW
from .adamw import clip_grad_norm_ as clip_grad_norm_
from .attention import MultiHeadSelfAttention as MultiHeadSelfAttention
from .attention import causal_mask as causal_mask
from .attention import scaled_dot_product_attention as scaled_dot_product_attention
from .attention import softmax as softmax
from .block import RMSNorm as RMSNorm
from .block import SwiGLU as SwiGLU
from .block import TransformerBlock as TransformerBlock
from .block import silu as silu
from .bpe import train_bpe as train_bpe
from .configuration import PRESETS as PRESETS
from .configuration import TrainingConfig as TrainingConfig
from .configuration import load_preset as load_preset
from .corpus import iter_documents as iter_documents
from .corpus import read_text as read_text
from .corpus import split_text as split_text
from .dataset import batch_at as batch_at
from .dataset import get_batch as get_batch
from .dataset import load_tokens as load_tokens
from .embeddings import Embedding as Embedding
from .embeddings import Linear as Linear
from .errors import END_OF_TEXT as END_OF_TEXT
from .errors import InputError as InputError
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .fast_model import make_fast as make_fast
from .generation import KVCache as KVCache
from .generation import SamplingConfig as SamplingConfig
from .generation import generate_stream as generate_stream
from .generation import next_token_probs as next_token_probs
from .generation import sample as sample
from .grammar import StoryGrammar as StoryGrammar
from .grammar import write_stories as write_stories
from .loss import bits_per_byte as bits_per_byte
from .loss import cross_entropy as cross_entropy
from .loss import perplexity as perplexity
from .rope import RotaryEmbedding as RotaryEmbedding
from .run_folder import load_run as load_run
from .runs import Run as Run
from .schedule import cosine_schedule as cosine_schedule
from .tokenizer import Tokenizer as Tokenizer
from .training import Trainer as Trainer
from .transformer import Transformer as Transformer
from .transformer import TransformerConfig as TransformerConfig

__version__: str
