"""Shipping: a parcel for each confirmed order. Imports are relative, so that the folder may have another name."""
