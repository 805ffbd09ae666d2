# public names: from .module import Name as Name
from .synthetic import SyntheticReader as SyntheticReader
from .synthetic import Truth as Truth
from .synthetic import simulate_motor_imagery as simulate_motor_imagery
