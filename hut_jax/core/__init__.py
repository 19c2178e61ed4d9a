"""What all other folders use: one-line errors, files that appear whole, trees and paths. Imports no other folder."""
