from .batch import Batch as Batch
from .batch import Embedding as Embedding
from .batch import Tokens as Tokens
from .data import BrainData as BrainData
from .io import from_pretrained as from_pretrained
from .io import load_model as load_model
from .io import load_response_model as load_response_model
from .io import load_tokenizer as load_tokenizer
from .io import push_to_hub as push_to_hub
from .io import save_model as save_model
from .io import save_pretrained as save_pretrained
from .types import Event as Event
from .types import Recording as Recording
from .types import Result as Result
from .types import Sensors as Sensors
from .types import Signal as Signal
from .units import Kind as Kind

__version__: str
