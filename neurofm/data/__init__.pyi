# public names: from .module import Name as Name
