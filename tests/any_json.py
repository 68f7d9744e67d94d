"""Whatever JSON may hold, and above all what cannot be encoded or stored."""

from hypothesis import strategies as st

# Text with what cannot be encoded or stored, and keys that mean something to Airflow.
texts = st.text(st.characters() | st.sampled_from("\0\ud83d\udc00\ufffd")) | st.sampled_from(
    ["__classname__", "__id__", "__type", "__var", "__data__", "__version__", "dict"]
)
numbers = (
    st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**63, 2**64, -(2**63) - 1])
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
